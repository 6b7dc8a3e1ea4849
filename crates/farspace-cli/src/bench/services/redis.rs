//! redis under redis-benchmark.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{Seen, Server, Visit};

/// A server with its memory filled.
pub(super) struct Redis {
    server: Server,
    socket: PathBuf,
    requests: u64,
}

impl Redis {
    /// `None` where it isn't installed.
    pub(super) fn start(dir: &Path, quick: bool) -> anyhow::Result<Option<Self>> {
        let found = |name: &str| {
            Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
        };
        if !["redis-server", "redis-cli", "redis-benchmark"].into_iter().all(found) {
            return Ok(None);
        }
        let socket = dir.join("redis");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"]).arg(dir);
        command.arg("--unixsocket").arg(&socket).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server(command.spawn().context("start redis-server")?);
        let (keys, requests) = if quick { ("20000", 50_000) } else { ("600000", 250_000) };
        let redis = Self { server, socket, requests };
        for _ in 0..200 {
            if redis.cli().arg("ping").output().is_ok_and(|answer| answer.status.success()) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let fill =
            "for i = 1, ARGV[1] do redis.call('SET', 'fixed:' .. i, string.rep('v' .. i .. ',', 120)) end";
        let filled = redis.cli().args(["eval", fill, "0", keys]).output().context("fill redis")?;
        if !filled.status.success() {
            bail!("redis can't be filled: {}", String::from_utf8_lossy(&filled.stderr));
        }
        // Once without being looked at: the keys of the load exist then.
        redis.run(Visit::Undumped, dir)?;
        Ok(Some(redis))
    }

    fn cli(&self) -> Command {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(&self.socket);
        command
    }

    pub(super) fn run(&self, visit: Visit, core: &Path) -> anyhow::Result<Seen> {
        let mut load = Command::new("redis-benchmark");
        load.arg("-s").arg(&self.socket).args(["-t", "set", "-c", "20", "-r", "100000", "-d", "100", "-n"]);
        load.arg(self.requests.to_string());
        let load =
            load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("start redis-benchmark")?;
        visit.run(self.server.0.id() as i32, core)?;
        let output = load.wait_with_output().context("wait for redis-benchmark")?;
        parse(&String::from_utf8_lossy(&output.stdout)).context("understand redis-benchmark")
    }
}

/// What redis-benchmark says at its end.
fn parse(text: &str) -> Option<Seen> {
    let after = |label: &str| text.split(label).nth(1);
    let per_s = after("throughput summary:")?.split_whitespace().next()?.parse().ok()?;
    // "99.902% <= 0.311 milliseconds (cumulative count 99903)"
    let latencies: Vec<(f64, f64)> = after("Latency by percentile distribution:")?
        .lines()
        .skip(1)
        .map_while(|line| {
            let (percent, rest) = line.trim().split_once("% <= ")?;
            Some((percent.parse().ok()?, rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect();
    let p999_ms = latencies.iter().find(|(percent, _)| *percent >= 99.9)?.1;
    Some(Seen { per_s, p999_ms, max_ms: latencies.last()?.1 })
}

#[cfg(test)]
mod tests {
    #[test]
    fn summary() {
        let text = "progress\r====== SET ======\n  1000 requests completed in 0.01 seconds\n\n\
            Latency by percentile distribution:\n0.000% <= 0.055 milliseconds (cumulative count 1)\n\
            99.805% <= 0.3 milliseconds (cumulative count 998)\n99.902% <= 0.4 milliseconds (cumulative count 999)\n\
            100.000% <= 1.2 milliseconds (cumulative count 1000)\n\nCumulative distribution of latencies:\n\
            0.000% <= 0.103 milliseconds (cumulative count 0)\n\nSummary:\n\
            \x20 throughput summary: 95238.10 requests per second\n";
        let seen = super::parse(text).expect("as it is printed");
        assert_eq!((seen.per_s, seen.p999_ms, seen.max_ms), (95238.10, 0.4, 1.2));
    }
}
