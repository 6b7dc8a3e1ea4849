use super::*;

const AT: u64 = 0x7f00_0000_1000;
const FREE: [Range<u64>; 2] = [0x1_0000..0x2_0000, 0x40_0000..AT - 0x10_0000];
const CODE: [u8; 10] = [0x0f, 0x05, 0x89, 0xc3, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];

fn patch(patches: &mut Patches, at: u64) -> Site {
    let plan = patches.plan(at, &CODE, 0x1000, &FREE).expect("patchable");
    patches.commit(plan).expect("a fresh plan").clone()
}

#[test]
fn lookups_tell_where_a_thread_belongs() {
    let mut patches = Patches::default();
    let site = patch(&mut patches, AT);
    assert_eq!(site.window(), AT..AT + 10);
    assert_eq!(patches.landing(AT), Some(Landing::Syscall(&site)));
    assert_eq!(patches.landing(AT + 1), Some(Landing::Middle(&site)));
    assert_eq!(patches.landing(AT + 2), Some(Landing::Copy { site: &site, to: site.after() }));
    assert_eq!(patches.landing(AT + 4), Some(Landing::Copy { site: &site, to: site.after() + 2 }));
    assert_eq!(patches.landing(AT + 3), Some(Landing::Middle(&site)));
    assert_eq!(patches.landing(AT + 5), None, "isn't changed");
    assert_eq!(patches.landing(AT - 1), None);

    let start = site.trampoline().start;
    assert_eq!(patches.origin(start), Some(AT));
    assert_eq!(patches.origin(start + 7), Some(AT));
    assert_eq!(patches.origin(site.after()), Some(AT + 2));
    assert_eq!(patches.origin(site.after() + 2), Some(AT + 4));
    assert_eq!(patches.origin(site.after() + 8), Some(AT + 10), "the way back");
    assert_eq!(patches.origin(site.trampoline().end), None);
    assert_eq!(patches.origin(start - 1), None);
}

#[test]
fn the_first_step_and_the_last_are_at_the_site() {
    let site = patch(&mut Patches::default(), AT);
    let [first, .., last] = site.steps();
    assert_eq!((first, last), (Step { at: AT, byte: 0xcc }, Step { at: AT, byte: 0xe9 }));
    let offsets: Vec<u64> = site.undo_steps().iter().map(|step| step.at - AT).collect();
    assert_eq!(offsets, [0, 4, 3, 2, 1, 0]);
    assert_eq!(site.undo_steps()[5].byte, 0x0f);
}

#[test]
fn overlapping_sites_are_refused() {
    let mut patches = Patches::default();
    patch(&mut patches, AT);
    for at in [AT - 9, AT - 1, AT, AT + 5, AT + 9] {
        assert_eq!(patches.plan(at, &CODE, 0, &FREE), Err(Refusal::Overlap { site: AT }), "{at:#x}");
    }
    patches.plan(AT + 10, &CODE, 0, &FREE).expect("adjacent");
    patches.plan(AT - 10, &CODE, 0, &FREE).expect("adjacent");
}

#[test]
fn a_plan_goes_stale() {
    let mut patches = Patches::default();
    let (first, second) =
        (patches.plan(AT, &CODE, 0, &FREE).expect("ok"), patches.plan(AT, &CODE, 0, &FREE).expect("ok"));
    patches.commit(first).expect("fresh");
    assert_eq!(patches.commit(second), Err(Stale { site: AT }));
}

#[test]
fn undone_sites_are_known_until_released() {
    let mut patches = Patches::default();
    let site = patch(&mut patches, AT);
    let other = patch(&mut patches, AT + 10);
    assert_eq!(patches.pages().count(), 1, "neighbours share a page");
    assert_eq!(patches.undo(AT + 20..u64::MAX), []);
    assert_eq!(patches.undo(AT - 100..AT), []);
    assert_eq!(patches.undo(AT + 2..AT + 2), []);
    assert_eq!(patches.release(site.trampoline().start), None, "not retired");

    let undone = patches.undo(AT + 9..AT + 10);
    assert_eq!(undone.len(), 1);
    assert_eq!((undone[0].site, undone[0].steps), (AT, site.undo_steps()));
    assert_eq!(patches.undo(AT..AT + 10), [], "once is enough");
    assert!(matches!(patches.landing(AT + 2), Some(Landing::Copy { .. })));
    assert_eq!(patches.origin(site.after()), Some(AT + 2));
    assert!(matches!(patches.plan(AT, &CODE, 0, &FREE), Err(Refusal::Overlap { .. })));

    assert_eq!(patches.release(site.trampoline().start), None, "the other one is still there");
    assert_eq!(patches.landing(AT + 2), None);
    assert_eq!(patches.origin(site.after()), None);
    // Mapping over a trampoline takes its patch back, too.
    let undone = patches.undo(other.after()..other.after() + 1);
    assert_eq!(undone[0].site, AT + 10);
    let page = patches.release(other.trampoline().start).expect("the last of its page");
    assert_eq!(page, other.after() & !(PAGE - 1));
    assert_eq!(patches.sites().count() + patches.pages().count(), 0);
}

#[test]
fn forks_are_independent() {
    let mut parent = Patches::default();
    patch(&mut parent, AT);
    let mut child = parent.clone();
    child.undo(0..u64::MAX);
    assert!(child.site(AT).is_some_and(Site::is_retired));
    assert!(!parent.site(AT).is_some_and(Site::is_retired));
}

#[test]
fn the_overlay_restores_any_part() {
    let mut patches = Patches::default();
    let site = patch(&mut patches, AT);
    let mut memory = [0x11; 30];
    memory[10..20].copy_from_slice(&CODE);
    let original = memory;
    memory[10..15].copy_from_slice(&site.patched());
    for from in 0..30 {
        for to in from..30 {
            let mut part = memory[from..to].to_vec();
            patches.overlay(AT - 10 + from as u64, &mut part);
            assert_eq!(part, original[from..to], "{from}..{to}");
        }
    }
    patches.undo(AT..AT + 1);
    let mut memory = original;
    patches.overlay(AT - 10, &mut memory);
    assert_eq!(memory, original);
}

/// A pattern that looks like a patchable sequence inside of another instruction is never looked at: only what
/// follows the site counts, and nothing before it changes.
#[test]
fn what_precedes_a_site_is_untouched() {
    for prefix in
        [&[0x41, 0xb8, 0x10, 0, 0, 0][..], &[0x48, 0xb8, 0x10, 0, 0, 0, 0, 0, 0, 0], &[0xb8, 0x10, 0, 0, 0]]
    {
        let site = patch(&mut Patches::default(), AT + prefix.len() as u64);
        assert!(site.steps().iter().chain(&site.undo_steps()).all(|step| site.patch().contains(&step.at)));
    }
}
