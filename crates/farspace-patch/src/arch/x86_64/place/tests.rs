use proptest::prelude::*;

use super::*;

const SITE: u64 = 0x7f12_3456_789a;
const LOWEST: u64 = 0x1_0000;
const HIGHEST_ADDRESS: u64 = 0x7fff_ffff_f000;

fn request(site: u64, len: usize) -> Request {
    Request { site, len, reach: 0..=u64::MAX }
}

fn check(request: &Request, place: Place) {
    let distance = place.at.wrapping_sub(request.site + PATCH_LEN as u64) as i64;
    let distance = i32::try_from(distance).expect("within reach of the jump");
    assert!(distance.to_le_bytes().into_iter().all(is_trap), "{distance:#x}");
    assert_eq!(place.at / PAGE, (place.at + request.len as u64 - 1) / PAGE, "lies in one page");
}

#[test]
fn the_orders_are_permutations_of_the_set() {
    for mut order in [HIGHEST, MIDDLE] {
        order.sort_unstable();
        assert_eq!(order, TRAPS);
    }
}

#[test]
fn nothing_free_is_no_place() {
    assert_eq!(find(&request(SITE, 50), &Arena::default(), &[]), None);
    let occupied = [LOWEST..SITE - (3 << 30), SITE + (3 << 30)..HIGHEST_ADDRESS];
    assert_eq!(find(&request(SITE, 50), &Arena::default(), &occupied), None);
}

#[test]
fn stays_within_reach() {
    let free = LOWEST..HIGHEST_ADDRESS;
    let above = Request { site: SITE, len: 50, reach: SITE..=u64::MAX };
    let place = find(&above, &Arena::default(), std::slice::from_ref(&free)).expect("room above");
    assert!(place.at > SITE);
    let nowhere = Request { site: SITE, len: 50, reach: SITE..=SITE + 100 };
    assert_eq!(find(&nowhere, &Arena::default(), &[free]), None);
}

/// Every address that a page offers is found, and no other: compared with trying all.
#[test]
fn a_page_offers_what_it_should() {
    for page in (0..2000).map(|i| (SITE & !0xfff) + 0x0607_0000 + i * PAGE) {
        let request = request(SITE, 50);
        let mut found: Vec<u64> = in_page(&request, page).collect();
        found.sort_unstable();
        let all = page..=page + PAGE - 50;
        let good = |at: &u64| ((at - SITE - 5) as u32).to_le_bytes().into_iter().all(is_trap);
        assert_eq!(found, all.filter(good).collect::<Vec<_>>());
    }
}

/// Thousands of sites in a few megabytes of code share pages, and finding a place stays cheap.
#[test]
fn sites_share_pages() {
    let (mut arena, mut random) = (Arena::default(), 1u64);
    let free = [LOWEST..SITE & !0xfff, (SITE & !0xfff) + (8 << 20)..HIGHEST_ADDRESS];
    let start = std::time::Instant::now();
    const SITES: usize = 5000;
    for _ in 0..SITES {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let site = SITE + (random >> 33) % (4 << 20);
        let request = request(site, 40 + (random >> 60) as usize);
        let place = find(&request, &arena, &free).expect("room");
        check(&request, place);
        assert!(place.is_new_page || arena.is_free(place.at, request.len));
        arena.take(place.at, request.len);
    }
    let pages = arena.pages().count();
    println!("{SITES} sites, {pages} pages, {:?} each", start.elapsed() / SITES as u32);
    assert!(pages * 25 < SITES, "{pages} pages");
}

proptest! {
    #[test]
    fn any_site_with_room_gets_a_place(site in LOWEST..HIGHEST_ADDRESS, len in 30usize..120) {
        let request = request(site, len);
        let free = [LOWEST..site & !0xfff, (site & !0xfff) + 2 * PAGE..HIGHEST_ADDRESS];
        let mut arena = Arena::default();
        let first = find(&request, &arena, &free).expect("room");
        check(&request, first);
        prop_assert!(first.is_new_page);
        arena.take(first.at, len);
        let second = find(&request, &arena, &free).expect("room");
        check(&request, second);
        prop_assert!(!second.is_new_page, "the page has room for another");
        prop_assert!(arena.is_free(second.at, len));
    }
}
