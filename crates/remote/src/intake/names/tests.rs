use stdx::disk::{FakeDisk, Survivors};

use super::*;

const QUEUE: u128 = 7;

fn peer(cluster: &str) -> Peer {
    Peer { tenant: TenantId::default(), cluster: cluster.to_owned() }
}

fn open(disk: &FakeDisk) -> Names {
    Names::open(disk.shared(), "/hub/queues".into())
}

fn whose(names: &Names, incarnation: u128) -> Whose {
    names.whose(&TenantId::default(), QUEUE, incarnation)
}

#[test]
fn the_first_certificate_counts_and_outlives_a_power_cut() {
    let disk = FakeDisk::new(Path::new("/hub"));
    let names = open(&disk);
    assert_eq!(whose(&names, 1), Whose::Unknown);
    names.certify(&peer("a"), QUEUE, 1).expect("written");
    names.certify(&peer("b"), QUEUE, 2).expect("written");
    names.certify(&peer("b"), QUEUE, 1).expect("known");
    for names in [names, open(&disk.after_power_cut(Survivors::Nothing))] {
        assert_eq!(whose(&names, 1), Whose::Of("a".to_owned()));
        assert_eq!(whose(&names, 2), Whose::Of("b".to_owned()));
        assert_eq!(whose(&names, 3), Whose::Unknown);
        let other = TenantId::new("other").expect("a name");
        assert_eq!(names.whose(&other, QUEUE, 1), Whose::Unknown, "tenants know nothing of each other");
    }
}

#[test]
fn who_is_heard_of_after_another_has_begun_is_alive() {
    let disk = FakeDisk::new(Path::new("/hub"));
    let names = open(&disk);
    names.certify(&peer("a"), QUEUE, 1).expect("written");
    names.hear(&peer("a"), QUEUE);
    names.certify(&peer("b"), QUEUE, 2).expect("written");
    names.hear(&peer("b"), QUEUE);
    assert_eq!(whose(&names, 1), Whose::Of("a".to_owned()));
    names.hear(&peer("a"), QUEUE);
    for names in [&names, &open(&disk.after_power_cut(Survivors::Nothing))] {
        assert_eq!(whose(names, 1), Whose::Living("a".to_owned()));
        assert_eq!(whose(names, 2), Whose::Of("b".to_owned()), "nothing was heard since of it");
    }
    names.certify(&peer("a"), QUEUE, 3).expect("written");
    names.hear(&peer("b"), QUEUE);
    assert_eq!(whose(&names, 2), Whose::Living("b".to_owned()));
}

#[test]
fn nobody_is_told_before_it_is_written() {
    let disk = FakeDisk::new(Path::new("/hub"));
    let names = open(&disk);
    disk.set_capacity(Some(0));
    assert!(names.certify(&peer("a"), QUEUE, 1).is_err());
    assert!(names.certify(&peer("a"), QUEUE, 1).is_err(), "still not");
    disk.set_capacity(None);
    names.certify(&peer("a"), QUEUE, 1).expect("written");
    assert_eq!(whose(&open(&disk.after_power_cut(Survivors::Nothing)), 1), Whose::Of("a".to_owned()));
}

#[test]
fn a_name_has_so_many_lives_and_no_more() {
    let disk = FakeDisk::new(Path::new("/hub"));
    let names = open(&disk);
    names.certify(&peer("b"), QUEUE, 0).expect("written");
    for incarnation in 1..=LIVES_MAX as u128 + 1 {
        names.certify(&peer("a"), QUEUE, incarnation).expect("written");
    }
    for names in [&names, &open(&disk)] {
        assert_eq!(whose(names, 1), Whose::Unknown, "the oldest has been forgotten");
        assert_eq!(whose(names, 2), Whose::Of("a".to_owned()));
        assert_eq!(whose(names, 0), Whose::Of("b".to_owned()), "others do not suffer from it");
    }
}

#[test]
fn a_damaged_file_is_no_proof() {
    let disk = FakeDisk::new(Path::new("/hub"));
    open(&disk).certify(&peer("a"), QUEUE, 1).expect("written");
    let (path, len) = disk.files().pop().expect("one file");
    let bytes = disk.read(&path).expect("read");
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "{end} bytes of it");
    }
    for at in 0..len {
        assert!(disk.flip_byte(&path, at));
        assert_eq!(whose(&open(&disk), 1), Whose::Unknown, "byte {at}");
        assert!(disk.flip_byte(&path, at));
    }
    assert_eq!(whose(&open(&disk), 1), Whose::Of("a".to_owned()));
}

#[test]
fn the_format_stays() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/queue-names-1.0");
    let disk = FakeDisk::new(Path::new("/hub"));
    let names = open(&disk);
    names.certify(&peer("a"), QUEUE, 1).expect("written");
    names.certify(&peer("b"), QUEUE, 2).expect("written");
    names.certify(&peer("a"), 9, 300).expect("written");
    names.hear(&peer("a"), QUEUE);
    let bytes = disk.read(&names.path(&peer("a"))).expect("read");
    assert_eq!(bytes, std::fs::read(file).expect("the golden file"));
    let life = |incarnation, order, shared| Life { incarnation, cluster: "a".to_owned(), order, shared };
    let decoded = decode(&bytes).expect("sound");
    assert_eq!(decoded, (peer("a"), vec![(QUEUE, life(1, 0, true)), (9, life(300, 2, false))]));
}
