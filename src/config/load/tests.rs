use std::time::Duration;

use super::*;
use crate::config::{BFrames, LogFormat, Token};

fn from_text(text: &str) -> Result<Config, ConfigError> {
    load(text, &[])
}

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut places = BTreeMap::new();
    let config = parse(Path::new("millrace.toml"), text, &mut places)?;
    let env: Vec<_> = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let config = override_by(config, &env, &mut places)?;
    config.check_rules(|key| places.get(key).cloned().unwrap_or_else(|| Place::Key(key.into())))?;
    Ok(config)
}

fn error(text: &str) -> String {
    from_text(text).unwrap_err().to_string()
}

fn env_error(name: &str, value: &str) -> String {
    load("", &[(name, value)]).unwrap_err().to_string()
}

fn root(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(from_text("").unwrap(), Config::default());
    assert_eq!(Config::load(None, std::iter::empty()).unwrap(), Config::default());
}

#[test]
fn values_are_taken_and_the_rest_stays_as_it_was() {
    let text = r#"
        node.shards = 3
        [stream]
        publisher_grace = "500ms"
        [video]
        b_frames = "pass"
        [auth]
        publish = ["token1"]
        [webrtc]
        base_port = 0
    "#;
    let mut want = Config::default();
    want.node.shards = 3;
    want.stream.publisher_grace = Duration::from_millis(500);
    want.video.b_frames = BFrames::Pass;
    want.auth.publish = vec![Token::new("token1")];
    want.webrtc.base_port = 0;
    assert_eq!(from_text(text).unwrap(), want);
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_the_nearest_key() {
    let text =
        "[rtmp]\nenabled = true\n  listn = \"127.0.0.1:1\"\n\n[webrct]\nx = 1\n[http]\nbase_port = 1\n";
    let want = "millrace.toml:3:3: unknown key `listn` in [rtmp]. Did you mean `listen`?\n\
                millrace.toml:5:2: unknown section `webrct`. Did you mean [webrtc]?\n\
                millrace.toml:8:1: unknown key `base_port` in [http]. It is a key of [webrtc]";
    assert_eq!(error(text), want);
}

#[test]
fn unknown_keys_like_nothing_are_answered_with_what_there_is() {
    assert_eq!(
        error("[log]\nfrobnicate = 1"),
        "millrace.toml:2:1: unknown key `frobnicate` in [log]. The keys of [log] are `filter`, `format`"
    );
    assert_eq!(
        error("\"é\" = 1\ncors_origins = []"),
        "millrace.toml:1:1: unknown section `é`. The sections are `audio`, `auth`, `cluster`, `http`, `log`, `node`, \
         `ops`, `rtmp`, `stream`, `video`, `webrtc`\n\
         millrace.toml:2:1: unknown section `cors_origins`. It is a key of [http]: put it below that line"
    );
}

#[test]
fn values_of_a_wrong_type_are_refused_with_their_line_and_the_default() {
    let text = "[webrtc]\nprefer_h264 = true\nbase_port = \"eight\"";
    assert_eq!(
        error(text),
        "millrace.toml:3:13: webrtc.base_port: invalid type: string \"eight\", expected u16. \
         The default is `base_port = 8000`"
    );
    assert!(error("[webrtc]\nbase_port = 70000").starts_with("millrace.toml:2:13: webrtc.base_port: "));
    let grace = error("[stream]\npublisher_grace = 30");
    assert!(
        grace.starts_with("millrace.toml:2:19: stream.publisher_grace: invalid type: integer `30`"),
        "{grace}"
    );
    assert!(grace.contains("expected a duration such as \"30s\" or \"500ms\""), "{grace}");
    assert!(error("[stream]\npublisher_grace = \"30\"").contains("invalid value: string \"30\""));
    assert!(error("[rtmp]\nlisten = \"localhost\"").starts_with("millrace.toml:2:10: rtmp.listen: "));
    assert!(error("[video]\nb_frames = \"keep\"").contains("`drop`"));
    assert!(error("rtmp = 5").starts_with("millrace.toml:1:8: "));
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    for (text, start) in [
        ("[rtmp]\nlisten = \n", "millrace.toml:2:"),
        ("[rtmp\n", "millrace.toml:1:"),
        ("[rtmp]\nenabled = true\nenabled = false\n", "millrace.toml:3:1: "),
        ("a\u{0}b", "millrace.toml:1:"),
    ] {
        let error = error(text);
        assert!(error.starts_with(start) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn variables_override_the_file() {
    let env = [
        ("MILLRACE_RTMP__LISTEN", "127.0.0.1:2000"),
        ("MILLRACE_HTTP__LISTEN", "[::1]:2001"),
        ("MILLRACE_RTMP__ENABLED", "false"),
        ("MILLRACE_NODE__NAME", "7"),
        ("MILLRACE_NODE__SHARDS", " 2 "),
        ("MILLRACE_NODE__PUBLIC_IPS", "['192.0.2.1', \"2001:db8::1\"]"),
        ("MILLRACE_NODE__DRAIN_DEADLINE", "3s"),
        ("MILLRACE_LOG__FORMAT", "\"json\""),
        ("MILLRACE_LOG__FILTER", "info,millrace=debug"),
        ("MILLRACE_STREAM__GOP_BYTES_MAX", "1_000_000"),
    ];
    let config = load("[rtmp]\nlisten = '127.0.0.1:1'\nconnections_max = 5", &env).unwrap();
    assert_eq!(config.rtmp.listen.to_string(), "127.0.0.1:2000");
    assert_eq!(config.http.listen.to_string(), "[::1]:2001");
    assert_eq!((config.rtmp.enabled, config.rtmp.connections_max), (false, 5));
    assert_eq!((config.node.name.as_str(), config.node.shards), ("7", 2));
    assert_eq!(config.node.public_ips.len(), 2);
    assert_eq!(config.node.drain_deadline, Duration::from_secs(3));
    assert_eq!((config.log.format, config.log.filter.as_str()), (LogFormat::Json, "info,millrace=debug"));
    assert_eq!(config.stream.gop_bytes_max, 1_000_000);
}

#[test]
fn unknown_or_wrong_variables_are_refused() {
    assert_eq!(
        env_error("MILLRACE_RTMP__LISTN", "x"),
        "environment variable MILLRACE_RTMP__LISTN: unknown key `listn` in [rtmp]. Did you mean `listen`?"
    );
    assert!(
        env_error("MILLRACE_RTPM__LISTEN", "x").ends_with("unknown section `rtpm`. Did you mean [rtmp]?")
    );
    assert_eq!(
        env_error("MILLRACE_RTMP_LISTEN", "127.0.0.1:1"),
        "environment variable MILLRACE_RTMP_LISTEN: no setting has this name. \
         Variables of settings are named MILLRACE_SECTION__KEY, with two underscores"
    );
    let wrong = env_error("MILLRACE_NODE__SHARDS", "many");
    assert!(
        wrong.starts_with("environment variable MILLRACE_NODE__SHARDS: invalid type: string \"many\""),
        "{wrong}"
    );
    assert!(wrong.ends_with("The default is `shards = 0`"), "{wrong}");
    assert!(env_error("MILLRACE_NODE__SHARDS", "-1").contains("MILLRACE_NODE__SHARDS"));
}

#[test]
fn tokens_are_not_told() {
    for error in [error("[auth]\npublish = 's3cr3t'"), error("[auth]\nplay = [['s3cr3t']]")] {
        assert!(error.contains("expected a list of tokens") && !error.contains("s3cr3t"), "{error}");
    }
    let error = env_error("MILLRACE_AUTH__PUBLISH", "s3cr3t");
    assert!(error.contains("expected a list of tokens") && !error.contains("s3cr3t"), "{error}");
}

#[test]
fn other_variables_are_left_alone() {
    let env = [("HOME", "/"), ("MILLRACE", "x"), ("NOT_MILLRACE_RTMP__LISTN", "x")];
    let env = env.map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(Config::load(None, env.into_iter()).unwrap(), Config::default());
    // What Kubernetes sets for services called `millrace` and `millrace-edge`.
    let kubernetes = [
        ("MILLRACE_SERVICE_HOST", "10.0.0.1"),
        ("MILLRACE_SERVICE_PORT", "8080"),
        ("MILLRACE_SERVICE_PORT_HTTP", "8080"),
        ("MILLRACE_PORT", "tcp://10.0.0.1:8080"),
        ("MILLRACE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("MILLRACE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("MILLRACE_EDGE_SERVICE_HOST", "10.0.0.1"),
    ];
    assert_eq!(load("", &kubernetes).unwrap(), Config::default());
    assert!(load("", &[("MILLRACE_WEBRTC_BASE_PORT", "8000")]).is_err(), "a misspelt setting");
}

#[test]
fn broken_rules_name_the_line_or_variable_that_broke_them() {
    let text = "[audio]\nopus_kbps = 9000\naac_kbps = 64\n";
    assert!(error(text).starts_with("millrace.toml:2:1: audio.opus_kbps is 9000"), "{}", error(text));
    let broken = load("", &[("MILLRACE_AUDIO__AAC_KBPS", "1")]).unwrap_err().to_string();
    assert!(
        broken.starts_with("environment variable MILLRACE_AUDIO__AAC_KBPS: audio.aac_kbps is 1"),
        "{broken}"
    );
}

#[test]
fn a_file_that_is_not_there_is_said_to_be() {
    let error = Config::load(Some(Path::new("/nowhere/m.toml")), std::iter::empty()).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/m.toml: cannot be read: No such file"), "{error}");
}

#[test]
fn the_example_file_is_the_defaults_with_every_key() {
    let example = root("millrace.example.toml");
    assert_eq!(from_text(&example).unwrap(), Config::default());
    assert_eq!(example.parse::<Table>().unwrap(), schema(), "every key is listed");
}

#[test]
fn the_document_has_every_key_with_its_default_and_no_other() {
    let document = root("docs/CONFIG.md");
    let mut rows = 0;
    for (section, keys) in &schema() {
        for (key, default) in keys.as_table().unwrap() {
            let row = format!("| `{section}.{key}` | `{default}` |");
            assert!(document.lines().any(|line| line.starts_with(&row)), "docs/CONFIG.md lacks {row}");
            rows += 1;
        }
    }
    assert_eq!(document.lines().filter(|line| line.starts_with("| `")).count(), rows, "rows of no key");
}

#[test]
fn likeness_is_by_changes() {
    assert_eq!(changes("listen", "listen"), 0);
    assert_eq!(changes("listn", "listen"), 1);
    assert_eq!(changes("", "abc"), 3);
    assert_eq!(changes("kitten", "sitting"), 3);
    let known = ["play".to_string(), "publish".to_string()];
    assert_eq!(nearest("pbulish", known.iter()), Some(&known[1]));
    assert_eq!(nearest("xxxx", known.iter()), None);
}
