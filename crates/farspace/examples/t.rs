//! x
use farspace::*;
use std::os::fd::AsFd;
fn main() {
    let mb: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let pipe: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let out = std::env::args().nth(3).unwrap();
    let huge = std::env::args().nth(4).is_some();
    let len = mb << 20;
    // child with memory
    let p = unsafe { libc::mmap(std::ptr::null_mut(), len as usize + (2<<20), 3, libc::MAP_SHARED*0 | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    let p = ((p as u64 + (2<<20) - 1) & !((2<<20)-1)) as *mut libc::c_void;
    if huge { unsafe { libc::madvise(p, len as usize, libc::MADV_HUGEPAGE); } }
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        unsafe { for i in 0..len / 8 { *(p as *mut u64).add(i as usize) = i * 0x9e3779b97f4a7c15; } libc::sleep(1); loop { libc::sleep(10); } }
    }
    loop { let s = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap(); if s.contains("nanosleep") { break; } std::thread::sleep(std::time::Duration::from_millis(20)); }
    let mut t = Target::attach_with(pid, &AttachOptions { pipe_bytes: pipe, ..Default::default() }).unwrap();
    println!("{:?}", t.report());
    let mut base = vec![]; let mut ours = vec![];
    for _ in 0..5 {
        for k in 0..2 {
            let f = std::fs::OpenOptions::new().write(true).create(true).truncate(out.starts_with("/dev/shm") || out.starts_with("/tmp")).open(&out).unwrap();
            let isfile = f.metadata().unwrap().is_file();
            let t0 = std::time::Instant::now();
            if k == 0 {
                let mut buf = vec![0u8; 1 << 20]; let mut off = 0;
                while off < len { let liov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 1 << 20 }; let riov = libc::iovec { iov_base: (p as u64 + off) as *mut _, iov_len: 1 << 20 };
                    let n = unsafe { libc::process_vm_readv(pid, &liov, 1, &riov, 1, 0) }; assert!(n == 1 << 20);
                    use std::io::Write; (&f).write_all(&buf).unwrap(); off += n as u64; }
                base.push(t0.elapsed());
            } else {
                let mut s = if isfile { Sink::file_at(f.as_fd(), 0) } else { Sink::stream(f.as_fd()) };
                let x = t.splice(&[RemoteIoVec::new(p as u64, len)], &mut s, &mut |_| ()).unwrap();
                assert!(x.bytes == len && x.stopped.is_none());
                ours.push(t0.elapsed());
            }
        }
    }
    base.sort(); ours.sort();
    println!("base {:?} ours {:?} ratio {:.2} GB/s {:.2}", base[2], ours[2], base[2].as_secs_f64() / ours[2].as_secs_f64(), len as f64 / ours[2].as_secs_f64() / 1e9);
    t.detach().unwrap();
    unsafe { libc::kill(pid, 9); }
}
