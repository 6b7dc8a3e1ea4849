//! A postgres server of its own for a test.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::child::Running;
use super::programs::{self, wait_until};
use super::workdir::Workdir;

/// A running server; ended and waited for when dropped.
pub(crate) struct Postgres {
    server: Running,
    dir: PathBuf,
}

impl Postgres {
    /// Makes a database cluster and starts a server for it, which listens in the directory only.
    #[track_caller]
    pub(crate) fn start(dir: &Workdir) -> Self {
        // The server refuses to run as root, and has to get at the directory as another user.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let dir = dir.path().to_owned();
        let data = dir.join("data");
        programs::output(
            as_owner(&mut program("initdb"))
                .args(["-A", "trust", "-U", "tester", "--no-sync", "-D"])
                .arg(&data),
        );
        let mut command = program("postgres");
        as_owner(&mut command).arg("-D").arg(&data).arg("-k").arg(&dir);
        command.args([
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=64MB",
            "-c",
            "autovacuum=off",
        ]);
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let server = Running::start(command.stderr(log));
        let postgres = Self { server, dir };
        wait_until("postgres answers", || {
            postgres.client("psql").args(["-c", "select 1"]).output().unwrap().status.success()
        });
        postgres
    }

    /// The process id of the postmaster.
    pub(crate) fn pid(&self) -> i32 {
        self.server.pid()
    }

    /// A command of a client program for the server.
    pub(crate) fn client(&self, name: &str) -> Command {
        let package = if name == "pgbench" { "postgresql-contrib" } else { "postgresql-client" };
        let mut command = programs::command(name, package);
        command.env("PGHOST", &self.dir).env("PGUSER", "tester").env("PGDATABASE", "postgres");
        command
    }

    /// The answer to a query of one value.
    #[track_caller]
    pub(crate) fn query(&self, query: &str) -> String {
        programs::output(self.client("psql").args(["-X", "-A", "-t", "-c", query])).trim().to_owned()
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown: its children end, too, and its shared memory is removed.
        let Some(pid) = Pid::from_raw(self.pid()) else { return };
        let _ = kill_process(pid, Signal::QUIT);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.server.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn program(name: &str) -> Command {
    programs::command(name, "postgresql")
}

/// Runs a command as the user that the package makes, if this is root.
fn as_owner(command: &mut Command) -> &mut Command {
    if !rustix::process::geteuid().is_root() {
        return command;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find(|line| line.starts_with("postgres:"));
    let user = user.unwrap_or_else(|| panic!("there is no user postgres: apt-get install postgresql"));
    let number = |field: usize| user.split(':').nth(field).unwrap().parse::<u32>().unwrap();
    // Not where the test runs: that directory may be closed to it.
    command.current_dir("/").uid(number(2)).gid(number(3))
}
