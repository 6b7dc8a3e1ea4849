use super::super::relocate;
use super::*;

const AT: u64 = 0x40_1000;

fn read(follow: &[u8]) -> Result<Window, Refusal> {
    Window::read(AT, &[&SYSCALL, follow].concat())
}

fn refusal(follow: &[u8]) -> Refusal {
    read(follow).expect_err("refused")
}

#[test]
fn takes_whole_instructions_until_there_is_room() {
    let window = read(&[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x01]).expect("cmp rax, -4096");
    assert_eq!((window.len(), window.end(), window.falls_through), (8, AT + 8, true));
    let window = read(&[0x89, 0xc3, 0x5b, 0xc3]).expect("mov ebx, eax; pop rbx");
    assert_eq!((window.len(), window.pieces.len()), (5, 2));
    assert_eq!(window.original(), [0x0f, 0x05, 0x89, 0xc3, 0x5b]);
}

/// Fifteen bytes is the longest instruction, and it may begin at the patch's last byte.
#[test]
fn reads_at_most_window_max() {
    let longest = [0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
    let window = read(&[&[0x89, 0xc3][..], &longest, &[0x90; 8]].concat()).expect("mov; nopw");
    assert_eq!(window.len(), WINDOW_MAX);
}

#[test]
fn needs_a_syscall() {
    assert!(matches!(Window::read(AT, &[0x0f, 0x34, 0x90, 0x90, 0x90]), Err(Refusal::NotSyscall { at: AT })));
    assert!(matches!(Window::read(AT, &[0x0f]), Err(Refusal::NotSyscall { .. })));
    assert!(matches!(Window::read(u64::MAX - 3, &[0x0f, 0x05, 0x90, 0x90]), Err(Refusal::Truncated { .. })));
}

#[test]
fn the_end_of_the_mapping_is_respected() {
    assert_eq!(refusal(&[]), Refusal::Truncated { at: AT + 2 });
    assert_eq!(refusal(&[0x48, 0x3d, 0, 0xf0]), Refusal::Truncated { at: AT + 2 });
    assert_eq!(refusal(&[0xc3, 0x90]), Refusal::Truncated { at: AT + 4 });
}

#[test]
fn refuses_what_cannot_be_relocated() {
    let at = AT + 2;
    let cases: [(&[u8], Refusal); 28] = [
        (&[0xe8, 0, 0, 0, 0], Refusal::Call { at }),
        (&[0xff, 0xd0, 0x90], Refusal::Call { at }),
        (&[0xff, 0x15, 0, 0, 0, 0], Refusal::Call { at }),
        (&[0xff, 0x18, 0x90], Refusal::Call { at }),
        (&[0x0f, 0x05, 0x90], Refusal::Trap { at }),
        (&[0x0f, 0x34, 0x90], Refusal::Trap { at }),
        (&[0xcd, 0x80, 0x90], Refusal::Trap { at }),
        (&[0xcc, 0x90, 0x90], Refusal::Trap { at }),
        (&[0xf1, 0x90, 0x90], Refusal::Trap { at }),
        (&[0xf4, 0x90, 0x90], Refusal::Trap { at }),
        (&[0x0f, 0x0b, 0x90], Refusal::Trap { at }),
        (&[0xec, 0x90, 0x90], Refusal::Trap { at }),
        (&[0xfa, 0x90, 0x90], Refusal::Trap { at }),
        (&[0x0f, 0x01, 0xc1], Refusal::Trap { at }), // vmcall
        (&[0xc7, 0xf8, 0, 0, 0, 0], Refusal::Transaction { at }),
        (&[0xcb, 0x90, 0x90], Refusal::Branch { at }),
        (&[0x48, 0xcf, 0x90], Refusal::Branch { at }),
        (&[0xff, 0x28, 0x90], Refusal::Branch { at }),
        (&[0x66, 0xeb, 0x10], Refusal::Branch { at }),
        (&[0x66, 0x74, 0x10], Refusal::Branch { at }),
        (&[0x66, 0xc3, 0x90], Refusal::Branch { at }),
        (&[0x66, 0x0f, 0x84, 0, 0, 0, 0], Refusal::Branch { at }),
        (&[0xd9, 0xe8, 0x90], Refusal::X87 { at }),
        (&[0x67, 0x8b, 0x05, 0, 1, 0, 0], Refusal::Operand { at }), // [eip + ..]
        (&[0x8b, 0x05, 0xfa, 0xff, 0xff, 0xff], Refusal::Operand { at }), // reads the patch
        (&[0x06, 0x90, 0x90], Refusal::Undecodable { at }),
        (&[0xd5, 0x00, 0x90], Refusal::Undecodable { at }), // APX
        (&[0x90, 0x75, 0xfc], Refusal::MiddleTarget { at: AT + 3 }), // to S+1
    ];
    for (follow, expected) in cases {
        let follow = [follow, &[0x90; 8]].concat();
        assert_eq!(refusal(&follow), expected, "{follow:02x?}");
    }
}

#[test]
fn behind_the_end_of_the_flow_only_padding_is_touched() {
    for padding in [&[0x90, 0x90][..], &[0xcc, 0xcc], &[0x66, 0x90], &[0x0f, 0x1f, 0x40, 0], &[0x90, 0xcc]] {
        read(&[&[0xc3][..], padding].concat()).unwrap_or_else(|refusal| panic!("{padding:02x?}: {refusal}"));
    }
    assert_eq!(refusal(&[0xc3, 0x00, 0x00, 0x00]), Refusal::NotPadding { at: AT + 3 });
    assert_eq!(refusal(&[0xc3, 0x90, 0x55, 0x00]), Refusal::NotPadding { at: AT + 4 });
    assert_eq!(refusal(&[0xc3, 0x06, 0x06, 0x00]), Refusal::NotPadding { at: AT + 3 });
    assert_eq!(refusal(&[0xeb, 0x10, 0x31, 0xc0]), Refusal::NotPadding { at: AT + 4 });
    // A return that is the last of the five bytes needs none, and nothing follows it.
    let window = read(&[0x89, 0xd8, 0xc3]).expect("mov eax, ebx; ret");
    assert!(!window.falls_through);
    // A long jump is all that is needed.
    assert!(!read(&[0xe9, 0, 1, 0, 0]).expect("jmp").falls_through);
}

#[test]
fn conditions_are_read_from_either_form() {
    for (follow, expected) in
        [(&[0x90, 0x77, 0x10][..], 7), (&[0x0f, 0x87, 0, 1, 0, 0][..], 7), (&[0x2e, 0x7f, 0x10][..], 15)]
    {
        let window = read(follow).expect("a branch");
        let form = window.pieces.last().expect("a piece").form;
        assert!(matches!(form, Form::Branch { condition, .. } if condition == expected), "{form:?}");
    }
}

proptest::proptest! {
    /// Whatever the bytes are: no panic, and the invariants hold.
    #[test]
    fn anything_is_read(follow in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..24)) {
        if let Ok(window) = read(&follow) {
            proptest::prop_assert!((PATCH_LEN..=WINDOW_MAX).contains(&window.len()));
            let mut next = AT + 2;
            for piece in &window.pieces {
                proptest::prop_assert_eq!(piece.at, next);
                next += piece.len as u64;
            }
            proptest::prop_assert_eq!(next, window.end());
            let reach = relocate::reach(&window);
            for at in [*reach.start(), *reach.end()].into_iter().filter(|at| reach.contains(at)) {
                proptest::prop_assert_eq!(relocate::code(&window, at, 0).bytes.len(), relocate::len(&window));
            }
        }
    }
}
