//! dev only
use farspace_exec::*;
use std::time::{Duration, Instant};
fn main() {
    let engine = Engine::new().unwrap();
    let space = engine.space().unwrap();
    let code = RemoteAddr(0x400000);
    space.map_anonymous(code, 4096, Protection::READ | Protection::EXECUTE).unwrap();
    space
        .write(
            code,
            if std::env::args().nth(2).is_some() {
                &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xeb, 0xf1][..]
            } else {
                &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7][..]
            },
        )
        .unwrap();
    let mut v = space.vcpu().unwrap();
    v.set_reg(Reg::Rip, code.0).unwrap();
    if std::env::args().nth(1).as_deref() == Some("one") {
        v.set_placement(Placement::Together);
    } else {
        v.set_placement(Placement::Apart);
    }
    for _ in 0..5 {
        let t = Instant::now();
        let n = 200000;
        for _ in 0..n {
            v.run(Some(Duration::from_secs(10))).unwrap();
            v.set_reg(Reg::Rax, 42).unwrap();
        }
        println!("{:?}", t.elapsed() / n);
    }
    println!("{}", std::fs::read_to_string(format!("/proc/{}/stat", v.pid())).unwrap());
}
