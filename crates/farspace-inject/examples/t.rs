fn main() {
    let pid: i32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let n: usize = std::env::args().nth(2).map_or(1, |s| s.parse().unwrap());
    let mut held_all = vec![];
    for i in 0..n {
        let t = std::time::Instant::now();
        let (agent, held) = match farspace_inject::infect(pid, std::time::Duration::from_secs(2)) { Ok(x) => x, Err(e) => { eprintln!("{e}"); return } };
        let up = t.elapsed();
        held_all.push(held);
        let r = agent.channel().syscall(39, [0; 6]).unwrap();
        let t1 = std::time::Instant::now();
        for _ in 0..1000 { agent.channel().syscall(39, [0; 6]).unwrap(); }
        let per = t1.elapsed() / 1000;
        if i == 0 { println!("agent {} getpid {} held {:?} up {:?} per call {:?}", agent.agent_pid(), r, held, up, per);
            print!("{}", std::process::Command::new("ps").args(["-o","pid,ppid,stat,comm"]).arg("-p").arg(agent.agent_pid().to_string()).output().map(|o| String::from_utf8(o.stdout).unwrap()).unwrap()); }
        let t = std::time::Instant::now();
        agent.leave().unwrap();
        if i == 0 { println!("leave {:?}", t.elapsed()); }
    }
    held_all.sort();
    println!("held median {:?} max {:?}", held_all[n / 2], held_all[n - 1]);
}
