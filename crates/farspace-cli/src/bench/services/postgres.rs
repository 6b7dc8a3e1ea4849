//! postgres under pgbench. What is dumped is one of the server's processes that serve clients, with the shared memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Seen, Server, Visit};

const SECONDS: &str = "5";
/// Debian keeps the server's programs in a directory for each version.
const PROGRAMS: &str = "/usr/lib/postgresql";

/// A server with its tables filled.
pub(super) struct Postgres {
    server: Server,
    dir: PathBuf,
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// `None` where it isn't installed.
    pub(super) fn start(dir: &Path, quick: bool) -> anyhow::Result<Option<Self>> {
        let (Some(initdb), Some(postgres), Some(_)) = (find("initdb"), find("postgres"), find("pgbench"))
        else {
            return Ok(None);
        };
        let user = owner();
        if rustix::process::geteuid().is_root() && user.is_none() {
            return Ok(None);
        }
        let dir = dir.join("postgres");
        fs::create_dir(&dir)?;
        // The server refuses to run as root, and has to get at the directory as another user.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        if let Some(parent) = dir.parent() {
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        }
        let data = dir.join("data");
        let mut make = as_owner(Command::new(initdb), user);
        succeed(make.args(["-A", "trust", "-U", "tester", "--no-sync", "-D"]).arg(&data).output()?)?;
        let mut command = as_owner(Command::new(postgres), user);
        command.arg("-D").arg(&data).arg("-k").arg(&dir).stdout(Stdio::null()).stderr(Stdio::null());
        for setting in ["listen_addresses=", "fsync=off", "shared_buffers=256MB", "autovacuum=off"] {
            command.args(["-c", setting]);
        }
        let server = Server(command.spawn().context("start postgres")?);
        let this = Self { server, dir, user };
        for _ in 0..300 {
            if this
                .client("psql")
                .args(["-c", "select 1"])
                .output()
                .is_ok_and(|answer| answer.status.success())
            {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let scale = if quick { "2" } else { "20" };
        succeed(this.client("pgbench").args(["-i", "-q", "-s", scale]).output()?)?;
        Ok(Some(this))
    }

    fn client(&self, name: &str) -> Command {
        let mut command = as_owner(Command::new(find(name).unwrap_or_else(|| name.into())), self.user);
        command.env("PGHOST", &self.dir).env("PGUSER", "tester").env("PGDATABASE", "postgres");
        command
    }

    pub(super) fn run(&self, visit: Visit, core: &Path) -> anyhow::Result<Seen> {
        let prefix = self.dir.join("transactions");
        let mut load = self.client("pgbench");
        load.args(["-c", "4", "-j", "1", "-n", "-l", "-T", SECONDS, "--log-prefix"]).arg(&prefix);
        let load = load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("start pgbench")?;
        thread::sleep(Duration::from_millis(300));
        let busy = "select pid from pg_stat_activity where application_name = 'pgbench' order by pid limit 1";
        let pid = succeed(self.client("psql").args(["-X", "-A", "-t", "-c", busy]).output()?)?;
        visit.run(pid.trim().parse().context("the process that serves pgbench")?, core)?;
        let summary = succeed(load.wait_with_output().context("wait for pgbench")?)?;
        let per_s = summary
            .split("tps = ")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .context("understand pgbench")?;
        let mut latencies_us = Vec::new();
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("transactions.") {
                // client, number, latency in microseconds, ...
                let text = fs::read_to_string(entry.path())?;
                latencies_us
                    .extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
                fs::remove_file(entry.path())?;
            }
        }
        latencies_us.sort_by(f64::total_cmp);
        let Some(&max) = latencies_us.last() else { bail!("pgbench has logged no transaction") };
        let p999 = latencies_us[(latencies_us.len() - 1) * 999 / 1000];
        Ok(Seen { per_s, p999_ms: p999 / 1e3, max_ms: max / 1e3 })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown: its children end, too, and its shared memory is removed.
        if let Some(pid) = Pid::from_raw(self.server.0.id() as i32) {
            let _ = kill_process(pid, Signal::QUIT);
            for _ in 0..500 {
                if !matches!(self.server.0.try_wait(), Ok(None)) {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn succeed(output: Output) -> anyhow::Result<String> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions =
        fs::read_dir(PROGRAMS).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let directories = std::env::split_paths(&path).chain(versions);
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// The user that the package makes, if this is root.
fn owner() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn as_owner(mut command: Command, user: Option<(u32, u32)>) -> Command {
    if let Some((uid, gid)) = user {
        // Not where this runs: that directory may be closed to it.
        command.current_dir("/").uid(uid).gid(gid);
    }
    command
}
