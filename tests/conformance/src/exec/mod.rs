//! process_vm_exec: cases 32 to 70 of the specification.

mod arguments;
mod calls;
mod faults;
mod guest;
mod leaks;
mod own;
mod parallel;
mod place;
mod privileges;
mod races;
mod registers;
mod rseq;
mod signals;
mod stopping;
mod syscalls;
mod target;
mod vectors;
mod xstate;

pub(crate) use xstate::{enabled as enabled_vector_state, has_pkru};

use crate::case::{Case, Outcome};
use crate::needs::Need::{self, Avx, Avx512, BaseInstructions, Int80, NativeBackend, ProtectionKeys, Root};
use crate::needs::Need::{Rseq, Userfaultfd, Xsave};
use libtest_mimic::Failed;
use place::Place;

/// Why a stock kernel can't show a case (SPEC, section 3).
const OUTLIVES: Need =
    NativeBackend("the guest runs in a task that shares the target's mm, and ends with it");
const CALLERS: Need =
    NativeBackend("the agent is the target's task: the caller's descriptors are passed to it, nothing else");
const TRACED: Need =
    NativeBackend("one tracer per task: the first attach can't be while another debugger has the target");
const STUCK: Need = NativeBackend("ptrace can't stop a thread in an uninterruptible page fault");
const REGISTERS: Need =
    NativeBackend("of a function, as farspace is there, nobody expects that it keeps vector registers");

const fn case(name: &'static str, run: fn() -> Outcome) -> Case {
    Case { name, run, needs: &[] }
}

const fn with(needs: &'static [Need], name: &'static str, run: fn() -> Outcome) -> Case {
    Case { name, run, needs }
}

/// In the order of the specification.
pub(crate) const CASES: &[Case] = &[
    case("exec_32_unknown_flag", arguments::flags),
    case("exec_32_mask_size", arguments::mask_size),
    case("exec_32_not_canonical", arguments::not_canonical),
    case("exec_33_bad_pointers", arguments::pointers),
    case("exec_33_read_only", arguments::read_only),
    case("exec_33_bad_fpstate", arguments::bad_fpstate),
    case("exec_34_no_such_process", arguments::no_such_process),
    with(&[Root], "exec_34_no_access", arguments::no_access),
    case("exec_34_pidfd", arguments::pidfd),
    case("exec_35_every_field", syscalls::every_field),
    case("exec_36_rax_is_the_result", syscalls::rax_is_the_result),
    case("exec_37_registers_and_flags", registers::round_trip),
    case("exec_37_registers_at_a_syscall", registers::round_trip_syscall),
    case("exec_38_invalid_number", syscalls::invalid_number),
    with(&[Int80], "exec_39_int80", syscalls::int80),
    with(&[Int80], "exec_39_sysenter", syscalls::sysenter),
    case("exec_40_vsyscall", syscalls::vsyscall),
    case("exec_41_segv", faults::segv),
    case("exec_41_segv_not_canonical", faults::segv_not_canonical),
    case("exec_42_bus", faults::bus),
    case("exec_42_ill", faults::ill),
    case("exec_42_fpe", faults::fpe),
    case("exec_42_trap", faults::trap),
    case("exec_42_single_step", faults::single_step),
    case("exec_43_unwanted_by_the_caller", faults::unwanted),
    case("exec_44_repair_and_resume", faults::repair),
    case("exec_45_default_action", signals::default_action),
    case("exec_45_from_outside", signals::from_outside),
    case("exec_46_pending", signals::pending),
    case("exec_46_pending_value", signals::pending_value),
    case("exec_47_handler", signals::handler),
    case("exec_47_ignored_or_blocked", signals::not_for_the_guest),
    case("exec_48_stop_and_continue", stopping::stop_and_continue),
    case("exec_49_kill", stopping::kill),
    with(&[BaseInstructions], "exec_50_own_bases_survive", registers::own_bases_survive),
    case("exec_51_bases_round_trip", registers::bases_round_trip),
    with(&[BaseInstructions], "exec_51_bases_written", registers::bases_written),
    with(&[Xsave], "exec_52_vectors_hidden", vectors::hidden),
    with(&[Xsave, REGISTERS], "exec_52_vectors_kept", vectors::kept_by_the_call),
    with(&[Xsave], "exec_53_fpstate_sse", vectors::fpstate_sse),
    with(&[Avx], "exec_53_fpstate_avx", vectors::fpstate_avx),
    with(&[Avx512], "exec_53_fpstate_avx512", vectors::fpstate_avx512),
    with(&[Avx], "exec_53_fpstate_hostile", vectors::fpstate_hostile),
    with(&[ProtectionKeys], "exec_54_pkru", vectors::pkru),
    with(&[ProtectionKeys], "exec_54_pkru_denies_everything", vectors::pkru_denies_everything),
    with(&[Rseq], "exec_55_no_rseq_write", rseq::no_write_into_the_target),
    case("exec_56_parallel_one_target", parallel::one_target),
    case("exec_56_parallel_several_targets", parallel::several_targets),
    case("exec_57_target_undisturbed", parallel::target_undisturbed),
    case("exec_58_target_killed", target::killed),
    with(&[OUTLIVES], "exec_58_guest_outlives_it", target::guest_outlives),
    case("exec_59_target_execs", target::exec),
    case("exec_59_target_execs_while_running", target::exec_while_running),
    case("exec_60_mappings", calls::mappings),
    case("exec_61_callers_descriptors", calls::callers_descriptors),
    case("exec_62_errors_in_rax", calls::errors_in_rax),
    case("exec_62_wrong_end_of_a_pipe", calls::wrong_end_of_a_pipe),
    case("exec_62_interrupted", calls::interrupted),
    case("exec_63_forbidden", calls::forbidden),
    with(&[CALLERS], "exec_64_callers_seccomp", privileges::seccomp),
    with(&[CALLERS, Root], "exec_65_callers_credentials", privileges::credentials),
    with(&[TRACED], "exec_66_traced", target::traced),
    case("exec_66_traced_is_no_harm", target::traced_is_no_harm),
    with(&[STUCK, Userfaultfd], "exec_67_stuck_in_a_page_fault", target::stuck),
    with(&[Userfaultfd], "exec_67_stuck_is_no_harm", target::stuck_is_no_harm),
    case("exec_68_context_unmapped", races::context_unmapped),
    case("exec_69_context_rewritten", races::context_rewritten),
    case("exec_70_no_leak", leaks::enters),
];

/// What a caller of its own can play.
type Scenario = fn(&Place) -> Result<String, Failed>;

const SCENARIOS: &[(&str, Scenario)] = &[
    ("alarm", signals::alarm),
    ("filtered", privileges::filtered),
    ("limited", privileges::limited),
    ("moved", rseq::moved),
    ("once", arguments::once),
    ("own_bases", registers::own_bases),
    ("rewritten", races::rewritten),
    ("spin", stopping::spin),
    ("terminate", signals::terminate),
    ("unmapped", races::unmapped),
    ("wrong_ends", calls::wrong_ends),
];

/// Plays a scenario in this process: `PID WORD...`, the words of the target's ready line.
pub(crate) fn scenario(name: &str, words: &[&str]) -> Result<String, Failed> {
    let (pid, words) = words.split_first().ok_or("no pid")?;
    let words = words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let place = Place::new(pid.parse()?, &words)?;
    let play = SCENARIOS.iter().find(|(known, _)| *known == name).ok_or("no such scenario")?.1;
    play(&place)
}
