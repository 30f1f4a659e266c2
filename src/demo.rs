//! `millrace demo`: a node that publishes a clip to itself, over RTMP like any encoder would.

mod cluster;

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use media::flv;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::{Config, Token};
use crate::serve;

pub use cluster::run as run_cluster;

/// Made by web/clip/make.sh: a running clock, a flash and a beep each second.
const CLIP: &[u8] = include_bytes!("../web/clip/demo.flv");
/// Its length: whole video frames and whole AAC frames, so that it loops without a seam.
const CLIP_MS: u32 = 8_000;
/// The stream's name.
const APP: &str = "live";
const NAME: &str = "demo";

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    needs_rtmp(&config)?;
    let signals = serve::Signals::listen()?;
    let (node, listening) = serve::start(config).await?;
    let rtmp = listening.rtmp.context("RTMP listens")?;
    let clip = tags()?;
    let (token, to_play) = (first(&node.config.auth.publish), first(&node.config.auth.play));
    let (publishes, plays) = (query(token.as_deref()), query(to_play.as_deref()));
    let mut draining = node.draining.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            () = publish_for_ever(rtmp, &clip, token.as_deref()) => {}
            _ = draining.wait_for(|d| *d) => {}
        }
    });
    let http = listening.http;
    writeln!(
        std::io::stdout(),
        "\n  Millrace runs, and plays a clip to itself.\n\n  \
         watch    http://{http}/play/{APP}/{NAME}{plays}\n  \
         console  http://{http}/{plays}\n  \
         publish  http://{http}/publish/{APP}/me{publishes}          (camera or screen of a browser)\n           \
         ffmpeg -re -i FILE -c:v libx264 -bf 0 -c:a aac -f flv rtmp://{rtmp}/{APP}/me{publishes}\n  \
         players  rtmp://{rtmp}/{APP}/{NAME}{plays}   http://{http}/{APP}/{NAME}.flv{plays}\n  \
         metrics  http://{}/metrics\n\n  Ctrl-C ends it.\n",
        listening.ops
    )?;
    serve::wait_and_drain(node, signals).await
}

fn needs_rtmp(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(config.rtmp.enabled, "the demo publishes over RTMP: set rtmp.enabled = true");
    Ok(())
}

/// The clip again and again; a second after a connection has ended, anew.
async fn publish_for_ever(node: SocketAddr, clip: &[flv::Tag], token: Option<&str>) {
    loop {
        if let Err(error) = publish(node, clip, token).await {
            tracing::warn!(%error, "the demo's publisher starts again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn first(tokens: &[Token]) -> Option<String> {
    tokens.first().map(|token| String::from_utf8_lossy(token.as_bytes()).into_owned())
}

fn query(token: Option<&str>) -> String {
    token.map_or_else(String::new, |token| format!("?token={token}"))
}

fn tags() -> anyhow::Result<Vec<flv::Tag>> {
    let mut reader = flv::Reader::new();
    reader.push(CLIP);
    let mut tags = Vec::new();
    while let Some(tag) = reader.poll().context("the clip is FLV")? {
        tags.push(tag);
    }
    Ok(tags)
}

/// Publishes the clip, looped, in real time.
async fn publish(to: SocketAddr, clip: &[flv::Tag], token: Option<&str>) -> anyhow::Result<()> {
    let mut random = [0; rtmp::RANDOM_LEN];
    SystemRandom::new().fill(&mut random).map_err(|_| anyhow::anyhow!("no randomness from the system"))?;
    let mut socket = TcpStream::connect(to).await?;
    socket.set_nodelay(true)?;
    let name = token.map_or_else(|| NAME.to_owned(), |token| format!("{NAME}?token={token}"));
    let mut client = rtmp::Client::publish(&to.to_string(), APP, &name, &random);
    let mut buffer = vec![0; 4096];
    let mut ready = false;
    while !ready {
        socket.write_all(&client.take_output()).await?;
        let count = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut buffer)).await??;
        if count == 0 {
            bail!("the node closed the connection");
        }
        client.handle_input(&buffer[..count])?;
        while let Some(event) = client.poll_event() {
            match event {
                rtmp::ClientEvent::Ready => ready = true,
                rtmp::ClientEvent::Rejected { code, description } => bail!("{code}: {description}"),
                _ => {}
            }
        }
    }
    let start = Instant::now();
    for round in 0_u32.. {
        for tag in clip {
            // Sequence headers and metadata once: the tracks do not change.
            if round > 0 && (tag.type_id == flv::TYPE_DATA || is_header(tag)) {
                continue;
            }
            let at = round.wrapping_mul(CLIP_MS).wrapping_add(tag.timestamp_ms);
            let due = start
                + Duration::from_millis(u64::from(round) * u64::from(CLIP_MS) + u64::from(tag.timestamp_ms));
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => break,
                    count = socket.read(&mut buffer) => match count? {
                        0 => bail!("the node closed the connection"),
                        count => client.handle_input(&buffer[..count])?,
                    },
                }
            }
            client.send_media(tag.type_id, at, &tag.body);
            socket.write_all(&client.take_output()).await?;
        }
    }
    Ok(())
}

/// FLV E.4.2 and E.4.3: packet type 0 is a sequence header.
fn is_header(tag: &flv::Tag) -> bool {
    tag.body.get(1) == Some(&0)
}
