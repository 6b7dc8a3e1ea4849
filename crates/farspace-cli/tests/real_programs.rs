//! Servers and language runtimes that are dumped while they work, and don't notice.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod common {
    pub(crate) mod child;
    pub(crate) mod debugger;
    pub(crate) mod dump;
    pub(crate) mod footprint;
    pub(crate) mod load;
    pub(crate) mod postgres;
    pub(crate) mod programs;
    pub(crate) mod talk;
    pub(crate) mod visits;
    pub(crate) mod workdir;
}

use std::process::{Command, Stdio};
use std::time::Duration;

use common::child::Running;
use common::dump::LEVELS;
use common::footprint::{Footprint, assert_clean};
use common::load::Counter;
use common::postgres::Postgres;
use common::programs::{self, wait_until};
use common::visits::{Visited, visit};
use common::workdir::Workdir;

const GIB: u64 = 1 << 30;
/// Values in redis, and their length: with redis's own overhead above 1 GiB.
const KEYS: u64 = 620_000;

#[test]
fn redis_under_load() {
    let dir = Workdir::with_room(2 * GIB);
    let socket = dir.join("socket");
    let mut server = programs::command("redis-server", "redis-server");
    server.args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"]).arg(dir.path());
    server.arg("--unixsocket").arg(&socket);
    let mut server = Running::start(server.stderr(Stdio::null()));
    let cli = || {
        let mut command = programs::command("redis-cli", "redis-tools");
        command.arg("-s").arg(&socket);
        command
    };
    wait_until("redis answers", || socket.exists() && cli().arg("ping").output().unwrap().status.success());
    // Values that tell their own key, so that each can be checked.
    let keys = KEYS.to_string();
    let fill = "for i = 1, ARGV[1] do redis.call('SET', 'fixed:' .. i, string.rep('v' .. i .. ',', 200)) end return 'filled'";
    assert_eq!(programs::output(cli().args(["eval", fill, "0", &keys])).trim(), "filled");

    let counter = Counter::start(&socket);
    let mut load = programs::command("redis-benchmark", "redis-tools");
    load.arg("-s").arg(&socket).args([
        "-t",
        "set,get,lpush,lpop",
        "-c",
        "10",
        "-P",
        "4",
        "-r",
        "10000",
        "-d",
        "100",
    ]);
    let errors = std::fs::File::create(dir.join("errors")).unwrap();
    // Forever.
    let mut load =
        Running::start(load.args(["-q", "-n", "100000", "-l"]).stdout(Stdio::null()).stderr(errors));
    visit(server.pid(), dir.path(), GIB);

    assert!(load.is_running(), "redis-benchmark has ended");
    assert_eq!(std::fs::read_to_string(dir.join("errors")).unwrap(), "", "redis-benchmark complains");
    drop(load);
    let seen = counter.finish();
    println!("redis: {seen:?}");
    assert!(seen.answers > 1000, "{seen:?}");
    let check = "local wrong = 0 for i = 1, ARGV[1] do \
        if redis.call('GET', 'fixed:' .. i) ~= string.rep('v' .. i .. ',', 200) then wrong = wrong + 1 end end return wrong";
    assert_eq!(programs::output(cli().args(["eval", check, "0", &keys])).trim(), "0", "values are wrong");
    assert!(server.is_running());
}

#[test]
fn postgres_under_pgbench() {
    let dir = Workdir::with_room(GIB);
    let postgres = Postgres::start(&dir);
    programs::output(postgres.client("pgbench").args(["-i", "-q", "-s", "2"]));
    let mut load = postgres.client("pgbench");
    // Ends by itself, long enough after the dumps; gdb looks at them later.
    let mut load =
        Running::start(load.args(["-c", "4", "-j", "2", "-T", "45", "-n"]).stderr(Stdio::inherit()));
    let busy = "select pid from pg_stat_activity where application_name = 'pgbench' order by pid limit 1";
    wait_until("pgbench works", || postgres.query(busy).parse::<i32>().is_ok());
    let backend = postgres.query(busy).parse::<i32>().unwrap();
    let mut visited = Vec::new();
    for pid in [postgres.pid(), backend] {
        let before = Footprint::of(pid);
        visited.extend(LEVELS.map(|level| Visited::now(pid, dir.path(), level, 1 << 20)));
        assert_clean(pid, &before);
    }
    assert!(load.is_running(), "pgbench has ended before the dumps");
    visited.into_iter().for_each(Visited::inspect);

    let (status, summary) = load.finish(Duration::from_secs(120));
    assert!(status.success(), "pgbench: {status}\n{summary}");
    assert!(summary.contains("number of failed transactions: 0 "), "{summary}");
    let number = |text: &str| text.trim().split('/').next().unwrap().parse::<u64>().unwrap();
    let count =
        summary.lines().find_map(|line| line.strip_prefix("number of transactions actually processed:"));
    let done = number(count.unwrap());
    assert!(done > 100, "{summary}");
    assert_eq!(postgres.query("select count(*) from pgbench_history"), done.to_string());
    // pgbench adds the same amount to an account, a teller and a branch.
    let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history) \
        and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history) \
        and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)";
    assert_eq!(postgres.query(sums), "t", "the balances don't agree");
    let log = postgres.log();
    let bad =
        log.lines().find(|line| ["PANIC", "terminated by signal", "crash"].iter().any(|w| line.contains(w)));
    assert_eq!(bad, None, "{log}");
}

#[test]
fn python_with_threads() {
    let dir = Workdir::with_room(GIB);
    let mut command = programs::command("python3", "python3");
    works_on(&dir, command.arg(programs::source("rounds.py")), 128 << 20);
}

#[test]
fn jvm_with_garbage_collection() {
    let dir = Workdir::with_room(2 * GIB);
    let mut command = programs::command("java", "default-jdk-headless");
    // Its own threads come and go by demand otherwise.
    command.args(["-XX:-UseDynamicNumberOfGCThreads", "-XX:-UseDynamicNumberOfCompilerThreads", "-Xmx256m"]);
    let said = works_on(&dir, command.arg(programs::source("Rounds.java")), 32 << 20);
    let collections = said.split_whitespace().last().unwrap().parse::<u64>().unwrap();
    assert!(collections > 0, "{said}");
}

/// Runs a program that checks its own work, visits it, and returns its last line.
#[track_caller]
fn works_on(dir: &Workdir, command: &mut Command, at_least: u64) -> String {
    let mut program = Running::start(command);
    assert_eq!(program.line(), "ready");
    visit(program.pid(), dir.path(), at_least);
    assert!(program.is_running());
    program.tell("done");
    let said = program.line();
    let (status, _) = program.finish(Duration::from_secs(30));
    assert!(status.success(), "{status}: {said}");
    let words: Vec<_> = said.split_whitespace().collect();
    assert!(matches!(words[..], ["rounds", rounds, "wrong", "0", ..] if rounds != "0"), "{said}");
    println!("{said}");
    said
}
