//! What the command line says.
use link::{Config, Loss};
use std::time::Duration;

/// Joins two network namespaces by a path that delays, loses, reorders and queues. Needs root and TUN devices.
#[derive(clap::Parser, Debug)]
#[command(name = "millrace-link")]
pub struct Arguments {
    /// Name of the namespace with 10.0.0.1 [default: one that is free]
    #[arg(long, value_name = "NAMESPACE")]
    pub a: Option<String>,
    /// Name of the namespace with 10.0.0.2
    #[arg(long, value_name = "NAMESPACE")]
    pub b: Option<String>,
    /// Each way, so twice that is the round trip: 50ms, 250us, 1s
    #[arg(long, value_parser = time, default_value = "0ms", value_name = "TIME")]
    delay: Duration,
    /// Up to so much more delay, uniformly distributed
    #[arg(long, value_parser = time, default_value = "0ms", value_name = "TIME")]
    jitter: Duration,
    /// Jitter lets packets overtake
    #[arg(long)]
    reorder: bool,
    /// Share of packets lost: 2%, 0.5%
    #[arg(long, value_parser = share, default_value = "0%", value_name = "SHARE")]
    loss: u32,
    /// They are lost in runs of this mean length
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "PACKETS")]
    bursts: Option<u32>,
    /// They are lost in whiles of this mean length, in which nothing comes through: 33ms
    #[arg(long, value_parser = time, conflicts_with = "bursts", value_name = "TIME")]
    fades: Option<Duration>,
    /// Share of packets that arrive twice
    #[arg(long, value_parser = share, default_value = "0%", value_name = "SHARE")]
    duplicate: u32,
    /// Bits a second: 4mbit, 800kbit, 1gbit [default: no limit]
    #[arg(long, value_parser = rate, value_name = "RATE")]
    rate: Option<u64>,
    /// What would wait longer for the rate is dropped
    #[arg(long, value_parser = time, default_value = "200ms", value_name = "TIME")]
    queue: Duration,
    /// Whose packets fare so; what the other side sends is only delayed
    #[arg(long, value_enum, default_value = "both")]
    from: From,
    /// Nothing gets in, in either direction, from then for so long: 5s,1s (may be repeated)
    #[arg(long, value_parser = outage, value_name = "START,TIME")]
    pub outage_at: Vec<Outage>,
    /// The same seed loses the same packets
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs this in the first namespace until it ends; without it, runs until Ctrl-C
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    A,
    B,
    Both,
}

/// Times since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outage {
    pub start: Duration,
    pub end: Duration,
}

impl Arguments {
    /// What happens to packets from the first and from the second namespace.
    ///
    /// # Errors
    /// Arguments that contradict each other.
    pub fn configs(&self) -> Result<[Config; 2], String> {
        let loss = match (self.bursts, self.fades) {
            (None, Some(mean)) => {
                Loss::Fades { per_mille: self.loss, mean_us: mean.as_micros().try_into().unwrap_or(u32::MAX) }
            }
            (None, None) => Loss::Random { per_mille: self.loss },
            // between two runs one packet passes at least
            (Some(mean), _) if u64::from(self.loss) * (u64::from(mean) + 1) > u64::from(mean) * 1_000 => {
                return Err(format!(
                    "--loss: runs of {mean} can make up {:.1}% at most",
                    100.0 * f64::from(mean) / (f64::from(mean) + 1.0)
                ));
            }
            (Some(mean_packets), _) => Loss::Bursts { per_mille: self.loss, mean_packets },
        };
        let delayed = Config { delay_us: self.delay.as_micros() as i64, ..Config::default() };
        let config = Config {
            jitter_us: self.jitter.as_micros() as u64,
            reorder: self.reorder,
            loss,
            duplicate_per_mille: self.duplicate,
            rate_bps: self.rate,
            queue_us: self.queue.as_micros() as i64,
            ..delayed
        };
        Ok(match self.from {
            From::A => [config, delayed],
            From::B => [delayed, config],
            From::Both => [config; 2],
        })
    }
}

/// A number and what follows it.
fn split(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let number = text[..end].parse().map_err(|_| "starts with no number".to_string())?;
    Ok((number, &text[end..]))
}

/// Up to an hour.
fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return Err("a time is a number and us, ms or s, such as 50ms".into()),
    };
    if seconds > 3_600.0 {
        return Err("is over an hour".into());
    }
    Ok(Duration::from_micros((seconds * 1e6).round() as u64))
}

/// In per mille.
fn share(text: &str) -> Result<u32, String> {
    match split(text)? {
        (percent, "%") if percent <= 100.0 => {
            let per_mille = percent * 10.0;
            if (per_mille - per_mille.round()).abs() > 1e-9 {
                return Err("is given to 0.1%".into());
            }
            Ok(per_mille.round() as u32)
        }
        _ => Err("a share is 0% to 100%, such as 0.5%".into()),
    }
}

fn rate(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let bits = match unit {
        "kbit" => number * 1e3,
        "mbit" => number * 1e6,
        "gbit" => number * 1e9,
        _ => return Err("a rate is a number and kbit, mbit or gbit, such as 4mbit".into()),
    };
    if bits < 1.0 { Err("is less than a bit a second".into()) } else { Ok(bits as u64) }
}

fn outage(text: &str) -> Result<Outage, String> {
    let (start, length) = text.split_once(',').ok_or("an outage is START,TIME, such as 5s,1s")?;
    let (start, length) = (time(start)?, time(length)?);
    Ok(Outage { start, end: start + length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_whole_of_it() {
        let line = "link --a x --delay 50ms --loss 2% --bursts 8 --rate 4mbit --queue 0.1s --jitter 500us --reorder --seed 3 \
                    --from b --duplicate 0.1% --outage-at 5s,1s --outage-at 8s,250ms -- ping -c 3 10.0.0.2";
        let arguments = parse(line).unwrap();
        let delayed = Config { delay_us: 50_000, ..Config::default() };
        let config = Config {
            jitter_us: 500,
            reorder: true,
            loss: Loss::Bursts { per_mille: 20, mean_packets: 8 },
            duplicate_per_mille: 1,
            rate_bps: Some(4_000_000),
            queue_us: 100_000,
            ..delayed
        };
        assert_eq!(arguments.configs(), Ok([delayed, config]));
        let outages: Vec<_> =
            arguments.outage_at.iter().map(|it| (it.start.as_millis(), it.end.as_millis())).collect();
        assert_eq!(outages, [(5_000, 6_000), (8_000, 8_250)]);
        assert_eq!((arguments.a.as_deref(), arguments.seed), (Some("x"), 3));
        assert_eq!(arguments.command, ["ping", "-c", "3", "10.0.0.2"]);
        let fades = parse("link --loss 2% --fades 33ms").unwrap().configs().unwrap();
        assert_eq!(fades[0].loss, Loss::Fades { per_mille: 20, mean_us: 33_000 });
    }

    #[test]
    fn nonsense_is_refused_with_what_would_do() {
        for (line, hint) in [
            ("link --delay 50", "50ms"),
            ("link --delay ms", "no number"),
            ("link --delay -5ms", "-5"),
            ("link --delay 2h", "50ms"),
            ("link --delay 9999999s", "hour"),
            ("link --loss 2", "0.5%"),
            ("link --loss 101%", "100%"),
            ("link --loss 0.05%", "0.1%"),
            ("link --rate 4", "4mbit"),
            ("link --rate 0mbit", "less than a bit"),
            ("link --bursts 0", "0 is not in"),
            ("link --outage-at 5s", "5s,1s"),
            ("link --speed 3", "--speed"),
        ] {
            let said = parse(line).expect_err(line).to_string();
            assert!(said.contains(hint), "{line}: {said}");
        }
        let arguments = parse("link --loss 60% --bursts 1").unwrap();
        assert!(arguments.configs().unwrap_err().contains("50.0%"));
    }
}
