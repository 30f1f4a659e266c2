//! Peers as child processes: the least settings that do the job, free ports of 127.0.0.1, no authentication, logs off.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::load::http;
use crate::load::process::{Process, folder, free_tcp};
use crate::load::target::{Preset, Target};

/// Where distributions put nginx's dynamic modules.
const NGINX_MODULES: [&str; 3] =
    ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];
const NGINX_RTMP: &str = "ngx_rtmp_module.so";

/// Who is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// This node.
    Millrace,
    /// Janus with its streaming plugin.
    Janus,
    /// nginx with the RTMP module.
    Nginx,
}

impl Server {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Server::Millrace => "Millrace",
            Server::Janus => "Janus",
            Server::Nginx => "nginx-rtmp",
        }
    }

    /// Its version and what is special about the way it runs here; an error when it is not installed.
    pub fn describe(self, millrace: &Path) -> Result<String> {
        Ok(match self {
            Server::Millrace => {
                let version = first_line(&millrace.to_string_lossy(), "--version")
                    .context("build it with `cargo build --release -p millrace`")?;
                format!("{version}, one shard")
            }
            Server::Janus => {
                let version = first_line("janus", "--version").context("Debian's package is janus")?;
                let version = version.trim_start_matches("Janus version: ");
                format!("Janus {version}, one event loop")
            }
            Server::Nginx => {
                let program = nginx();
                let version =
                    first_line(&program.to_string_lossy(), "-v").context("Debian's package is nginx")?;
                rtmp_module()?;
                let version = version.trim_start_matches("nginx version: ");
                format!("{version} with the RTMP module, one process")
            }
        })
    }
}

/// The first line that a program prints.
fn first_line(program: &str, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("{program} is not installed"),
        _ => anyhow::Error::new(error).context(format!("cannot run {program}")),
    })?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or(program).trim().to_owned())
}

/// It is often where only root's PATH leads.
pub fn nginx() -> PathBuf {
    let place = Path::new("/usr/sbin/nginx");
    if place.is_file() { place.into() } else { "nginx".into() }
}

/// Where nginx's RTMP module is.
pub fn rtmp_module() -> Result<PathBuf> {
    let places = NGINX_MODULES.map(|folder| Path::new(folder).join(NGINX_RTMP));
    let module = places.into_iter().find(|place| place.is_file());
    module.context("nginx has no RTMP module; Debian's package is libnginx-mod-rtmp")
}

/// Starts Janus, and points a target at it.
pub fn start_janus(cores: &[usize], target: &mut Target) -> Result<Process> {
    let folder = folder()?;
    let [http, ..] = free_tcp()?;
    // All plugins and transports but two are left out. Janus' default is a thread for each viewer, which took 41 to 46 % of a core for 60
    // viewers where one event loop took 25 to 37 %: so one loop, for one core. It never offers 127.0.0.1: its candidate is another
    // address of this machine, to which traffic stays inside as well.
    let unused =
        |names: &[&str]| names.iter().map(|name| format!("libjanus_{name}.so")).collect::<Vec<_>>().join(",");
    let plugins = [
        "audiobridge",
        "duktape",
        "echotest",
        "lua",
        "nosip",
        "recordplay",
        "sip",
        "textroom",
        "videocall",
        "videoroom",
        "voicemail",
    ];
    let transports = ["mqtt", "nanomsg", "pfunix", "rabbitmq", "websockets"];
    let janus = format!(
        "general: {{\n configs_folder = \"{}\"\n debug_level = 2\n event_loops = 1\n}}\n\
         plugins: {{\n disable = \"{}\"\n}}\ntransports: {{\n disable = \"{}\"\n}}\n",
        folder.display(),
        unused(&plugins),
        unused(&transports),
    );
    let settings = folder.join("janus.jcfg");
    fs::write(&settings, janus)?;
    fs::write(
        folder.join("janus.transport.http.jcfg"),
        format!(
            "general: {{\n json = \"compact\"\n base_path = \"/janus\"\n http = true\n ip = \"{}\"\n port = {}\n}}\n",
            http.ip(),
            http.port()
        ),
    )?;
    fs::write(folder.join("janus.plugin.streaming.jcfg"), "general: {\n}\n")?;
    let arguments = ["-F", &folder.to_string_lossy(), "-C", &settings.to_string_lossy()].map(str::to_owned);
    let arguments = arguments.each_ref().map(String::as_str);
    let mut process = Process::start(Path::new("janus"), &arguments, cores, folder)?;
    process.wait_until(|_| {
        let answer = http::request(&http::url_of(http, "/janus/info"), "GET", &[], "")?;
        ensure!(answer.head.status == 200, "it says {} on /janus/info", answer.head.status);
        Ok(())
    })?;
    target.preset = Preset::Janus;
    target.janus = Some(format!("http://{http}/janus"));
    target.pid = Some(process.pid());
    Ok(process)
}

/// Starts nginx, and points a target at it.
pub fn start_nginx(cores: &[usize], connections: usize, hls: bool, target: &mut Target) -> Result<Process> {
    let folder = folder()?;
    let [rtmp, http, _] = free_tcp()?;
    let (module, here) = (rtmp_module()?, folder.display());
    let cut = if hls { format!("hls on; hls_path {here}/hls; hls_fragment 1s;") } else { String::new() };
    let scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {here}/{what};"))
        .join(" ");
    let settings = format!(
        "load_module {};\ndaemon off;\nmaster_process off;\nworker_processes 1;\npid {here}/pid;\nerror_log stderr error;\n\
         worker_rlimit_nofile {};\nevents {{ worker_connections {}; }}\n\
         rtmp {{\n access_log off;\n server {{ listen {rtmp}; application live {{ live on; {cut} }} }}\n}}\n\
         http {{\n access_log off; sendfile on; tcp_nopush on; {scratch}\n server {{\n  listen {http};\n\
         location /hls {{ alias {here}/hls; types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; }} }}\n }}\n}}\n",
        module.display(),
        2 * connections + 1_024,
        connections + 512,
    );
    let config = folder.join("nginx.conf");
    fs::write(&config, settings)?;
    let arguments = ["-p", &folder.to_string_lossy(), "-c", &config.to_string_lossy()].map(str::to_owned);
    let arguments = arguments.each_ref().map(String::as_str);
    let mut process = Process::start(&nginx(), &arguments, cores, folder)?;
    process.wait_until(|_| {
        // It listens on both, and has no such file.
        let answer = http::request(&http::url_of(http, "/hls/none.m3u8"), "GET", &[], "")?;
        ensure!(answer.head.status == 404, "it says {}", answer.head.status);
        Ok(())
    })?;
    target.preset = Preset::NginxRtmp;
    target.rtmp = Some(format!("rtmp://{rtmp}/{{app}}/{{stream}}"));
    target.hls = Some(format!("http://{http}/hls/{{stream}}.m3u8"));
    target.pid = Some(process.pid());
    Ok(process)
}
