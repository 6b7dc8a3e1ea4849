use super::*;
use proptest::prelude::*;

fn image() -> impl Strategy<Value = ImageId> {
    prop_oneof![
        (1u32..=i32::MAX as u32).prop_map(ImageId::Process),
        (0u64..1 << 56).prop_map(ImageId::Shared)
    ]
}

fn run() -> impl Strategy<Value = Run> {
    let flags = prop_oneof![
        Just(PageFlags::PARENT),
        Just(PageFlags::PRESENT),
        Just(PageFlags::LAZY),
        Just(PageFlags::LAZY | PageFlags::PRESENT),
    ];
    (0u64..1 << 30, 1u32..1 << 20, flags).prop_map(|(page, nr_pages, flags)| Run {
        address: page * PAGE_SIZE,
        nr_pages,
        flags,
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        image().prop_map(|to| Request::Open(to, Answer::HasParent)),
        image().prop_map(|to| Request::Open(to, Answer::None)),
        image().prop_map(Request::Parent),
        (image(), run()).prop_map(|(to, run)| Request::Add(to, run)),
        Just(Request::Flush),
        Just(Request::Close),
    ]
}

/// What CRIU 3.17.1 puts on the wire for 3 pages of pid 42 (struct page_server_iov on x86-64).
#[test]
fn bytes_are_those_of_criu() {
    let run = Run { address: 0x7f12_3456_7000, nr_pages: 3, flags: PageFlags::PRESENT };
    let bytes = Request::Add(ImageId::Process(42), run).encode();
    assert_eq!(bytes[..8], [6, 0, 4, 0, 3, 0, 0, 0]);
    assert_eq!(bytes[8..16], [0x00, 0x70, 0x56, 0x34, 0x12, 0x7f, 0, 0]);
    assert_eq!(bytes[16..], [1, 42, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Request::Flush.encode()[..4], [0x23, 0x10, 0, 0]);
}

#[test]
fn older_commands_and_destinations() {
    let add = message(command::ADD, 2, 0x1000, 7 << 8 | 11);
    let run = Run { address: 0x1000, nr_pages: 2, flags: PageFlags::PRESENT };
    assert_eq!(Request::decode(&add), Ok(Request::Add(ImageId::Process(7), run)));
    assert_eq!(run.bytes_following(), 8192);
    let hole = message(command::HOLE, 2, 0x1000, 7 << 8 | 28);
    let run = Run { flags: PageFlags::PARENT, ..run };
    assert_eq!(Request::decode(&hole), Ok(Request::Add(ImageId::Shared(7), run)));
    assert_eq!(run.bytes_following(), 0);
}

#[test]
fn what_makes_no_sense() {
    let add = |nr_pages, address, flags: u32| {
        Request::decode(&message(command::ADD_F | flags << 16, nr_pages, address, 1 << 8 | 1))
    };
    assert!(add(1, 0x1000, 4).is_ok());
    for (nr_pages, address) in
        [(0, 0x1000), (1, 0x1001), (1, ADDRESS_END), (u32::MAX, ADDRESS_END - (1 << 43)), (1, u64::MAX << 12)]
    {
        assert_eq!(add(nr_pages, address, 4), Err(Malformed::Run { address, nr_pages }));
    }
    for flags in [0, 5, 8, 0xffff] {
        assert_eq!(add(1, 0x1000, flags), Err(Malformed::Flags(flags)));
    }
    let open = |to| Request::decode(&message(command::OPEN2, 0, 0, to));
    for to in [0, 1, 3 << 8, u64::MAX, 1 << 40 | 1, 0x8000_0000 << 8 | 1] {
        assert_eq!(open(to), Err(Malformed::Destination(to)), "{to:#x}");
    }
    assert_eq!(Request::decode(&message(7, 0, 0, 0)), Err(Malformed::Command(7)));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    /// Any bytes are a request within the limits, or an error.
    #[test]
    fn any_bytes(bytes: [u8; MESSAGE_LEN]) {
        check(&bytes);
    }

    /// Nearly right ones.
    #[test]
    fn a_changed_byte(request in request(), at in 0..MESSAGE_LEN, byte: u8) {
        let mut bytes = request.encode();
        bytes[at] = byte;
        check(&bytes);
    }
}

fn check(bytes: &[u8; MESSAGE_LEN]) {
    let Ok(request) = Request::decode(bytes) else { return };
    if let Request::Add(_, run) = request {
        assert!(run.nr_pages > 0 && run.address + run.len_bytes() <= ADDRESS_END);
        assert!(run.bytes_following() <= run.len_bytes());
    }
    assert_eq!(Request::decode(&request.encode()), Ok(request));
}
