//! The selftests of `kernel/selftests`, for the guest.

use crate::vm::{self, Initramfs};
use anyhow::{Context, ensure};
use std::fs;
use std::path::PathBuf;
use xshell::{Shell, cmd};

/// Where they are in the guest.
const FOLDER: &str = "/selftests";

/// Compiles them, and puts them into the guest's files.
///
/// # Errors
/// They don't compile.
pub(super) fn add(shell: &Shell, files: &mut Initramfs) -> anyhow::Result<()> {
    let output = std::path::absolute(vm::target().join("selftests"))?;
    fs::create_dir_all(&output)?;
    cmd!(shell, "make --silent -C kernel/selftests OUTPUT={output}").quiet().run()?;
    let mut found = 0;
    for entry in fs::read_dir(&output).with_context(|| output.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with("_test") {
            files.file(&path, PathBuf::from(FOLDER).join(&name))?;
            found += 1;
        }
    }
    ensure!(found > 0, "no selftest in {}", output.display());
    // The view that a debugger has of the calls.
    files.program("strace")?;
    files.bytes(format!("{FOLDER}/strace_test"), 0o755, STRACE);
    Ok(())
}

/// Runs each; sets `failed`. A test that is skipped in a kernel that should have the calls has failed.
pub(super) fn script() -> String {
    format!(
        "for test in {FOLDER}/*_test; do\n\
             echo \"# $test\"\n\
             $test >/tmp/tap 2>&1; status=$?\n\
             cat /tmp/tap\n\
             bad=$(grep -c '^not ok' /tmp/tap); good=$(grep -c '^ok' /tmp/tap)\n\
             [ $status = 0 ] && verdict=ok || {{ verdict=FAILED; failed=\"$failed ${{test##*/}}\"; }}\n\
             echo \"test result: $verdict. $good passed; $bad failed; 0 ignored; 0 measured; 0 filtered out\"\n\
         done\n"
    )
}

/// strace knows neither call by name; it must show number, arguments and result, and nothing of what guests do.
const STRACE: &str = r#"#!/bin/sh
echo "TAP version 13"
echo "1..5"
nr=0
tap() { nr=$((nr + 1)); if [ "$2" = 0 ]; then echo "ok $nr $1"; else echo "not ok $nr $1"; failed=1; fi; }
cd /tmp
strace -f -o trace /selftests/process_vmsplice_test >out 2>&1
tap "a caller of process_vmsplice works under strace" $?
grep -q 'syscall_0x224(0x[0-9a-f]*, 0x[0-9a-f]*, 0x[0-9a-f]*, 0x1, 0.*) = 0x6' trace
tap "process_vmsplice has its arguments and its count" $?
strace -f -o trace /selftests/process_vm_exec_test >out 2>&1
tap "a caller of process_vm_exec works under strace" $?
grep -q 'syscall_0x225(0x[0-9a-f]*, 0x[0-9a-f]*, 0, 0x[0-9a-f]*, 0x[0-9a-f]*, 0x8) = 0$' trace
tap "process_vm_exec has its arguments and its result" $?
# The guest wants to make it; the program itself never does.
! grep -q 'getpid()' trace
tap "a guest's call isn't shown as one of the caller's" $?
[ -z "$failed" ] || { sed 's/^/# /' out; grep -E 'syscall_0x22|getpid' trace | head -n 20 | sed 's/^/# /'; }
exit ${failed:-0}
"#;
