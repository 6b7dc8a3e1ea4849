//! process_vmsplice: cases 1 to 31 of the specification.

mod arguments;
mod contents;
mod downstream;
mod running;
mod transfer;
mod who;
mod zero_copy;

use crate::case::{Case, Outcome};
use crate::needs::Need::{self, HugetlbPages, NativeBackend, Root, SecretMemory, TransparentHugePages};

/// Why a stock kernel can't show a case (SPEC, section 3).
const LIVE: Need = NativeBackend("a stock kernel can't guarantee it: a fork in the target may part the page");

const fn case(name: &'static str, run: fn() -> Outcome) -> Case {
    Case { name, run, needs: &[] }
}

const fn with(needs: &'static [Need], name: &'static str, run: fn() -> Outcome) -> Case {
    Case { name, run, needs }
}

/// In the order of the specification.
pub(crate) const CASES: &[Case] = &[
    case("vmsplice_01_no_segments", arguments::no_segments),
    case("vmsplice_02_unknown_flag", arguments::unknown_flag),
    case("vmsplice_03_too_many_segments", arguments::too_many_segments),
    case("vmsplice_04_not_a_pipe_to_write", arguments::not_a_pipe_to_write),
    case("vmsplice_05_no_such_process", arguments::no_such_process),
    with(&[Root], "vmsplice_06_no_access", arguments::no_access),
    case("vmsplice_07_bad_iov", arguments::bad_iov),
    case("vmsplice_08_one_byte", transfer::one_byte),
    case("vmsplice_09_cross_page_order", transfer::cross_page_order),
    case("vmsplice_10_bad_second_segment", transfer::bad_second_segment),
    case("vmsplice_11_unreadable_first", transfer::unreadable_first),
    case("vmsplice_12_past_the_end", transfer::past_the_end),
    case("vmsplice_13_more_than_fits", transfer::more_than_fits),
    case("vmsplice_14_full_nonblock", transfer::full_nonblock),
    case("vmsplice_15_full_blocks_until_slot", transfer::full_blocks_until_slot),
    case("vmsplice_15_full_signal", transfer::full_signal),
    case("vmsplice_16_no_reader", transfer::no_reader),
    case("vmsplice_17_all_empty", transfer::all_empty),
    case("vmsplice_18_untouched", transfer::untouched),
    with(&[TransparentHugePages], "vmsplice_19_contents_thp", contents::thp),
    with(&[HugetlbPages], "vmsplice_19_contents_hugetlb", contents::hugetlb),
    case("vmsplice_19_contents_file", contents::file),
    case("vmsplice_19_contents_file_cow", contents::file_cow),
    case("vmsplice_19_contents_file_shared", contents::file_shared),
    case("vmsplice_19_contents_shared", contents::shared),
    case("vmsplice_19_contents_readonly", contents::readonly),
    with(&[SecretMemory], "vmsplice_20_secretmem", contents::secretmem),
    case("vmsplice_21_survives_munmap_and_exit", contents::survives_munmap_and_exit),
    case("vmsplice_22_downstream_write", downstream::downstream_write),
    case("vmsplice_23_unaligned_gift", downstream::unaligned_gift),
    case("vmsplice_24_tee_and_splice", downstream::tee_and_splice),
    case("vmsplice_25_pidfd", who::pidfd),
    case("vmsplice_26_own_pid", who::own_pid),
    case("vmsplice_27_never_stops", running::never_stops),
    case("vmsplice_28_storm", running::storm),
    case("vmsplice_28_exec", running::exec),
    case("vmsplice_28_exit", running::exit),
    case("vmsplice_29_third_party_tracer", who::third_party_tracer),
    case("vmsplice_29_third_party_stop", who::third_party_stop),
    with(&[LIVE], "vmsplice_30_live_page", zero_copy::live_page),
    case("vmsplice_31_no_byte_copied", zero_copy::no_byte_copied),
];
