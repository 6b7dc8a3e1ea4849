//! dev only
use farspace_exec::*;
use std::time::Instant;
fn main() {
    let n: u32 = std::env::args().nth(1).map_or(300, |a| a.parse().unwrap());
    for i in 0..n {
        let engine = Engine::new().unwrap();
        let t = Instant::now();
        for _ in 0..10 {
            let space = engine.space().unwrap_or_else(|e| {
                eprintln!("{i}: {e}");
                std::thread::sleep(std::time::Duration::from_secs(1000));
                unreachable!()
            });
            let v = space.vcpu().unwrap();
            drop(v);
        }
        if i % 50 == 0 {
            println!("{i} {:?} per space", t.elapsed() / 10);
        }
    }
}
