//! Run with `RUSTFLAGS="--cfg loom" cargo test -p iommu --lib model`.

use super::*;
use loom::sync::Arc;
use loom::thread;

const P: usize = PAGE as usize;

#[test]
fn a_reader_sees_a_mapping_whole_or_not_at_all() {
    // All interleavings with up to two preemptions: with every one the search takes hours.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let translator = Arc::new(Translator::new());
        // Pages 1 and 2 lie in different tables.
        translator.insert(P, 2 * P, Iova(0x10_0000)).unwrap();
        let reader = Arc::clone(&translator);
        let reader = thread::spawn(move || reader.lookup(P + 1, 2 * P - 1));
        translator.remove(P, 2 * P, Iova(0x10_0000)).unwrap();
        translator.insert(P, 2 * P, Iova(0x20_0000)).unwrap();
        let seen = reader.join().unwrap().map(|iova| iova.0);
        assert!([None, Some(0x10_0001), Some(0x20_0001)].contains(&seen), "{seen:x?}");
    });
}

#[test]
fn a_reader_of_what_stays_is_never_disturbed() {
    loom::model(|| {
        let translator = Arc::new(Translator::new());
        translator.insert(2 * P, P, Iova(0x10_0000)).unwrap();
        let reader = Arc::clone(&translator);
        let reader = thread::spawn(move || reader.lookup(2 * P + 8, 16));
        translator.insert(3 * P, P, Iova(0x20_0000)).unwrap();
        translator.remove(3 * P, P, Iova(0x20_0000)).unwrap();
        assert_eq!(reader.join().unwrap(), Some(Iova(0x10_0008)));
    });
}

#[test]
fn what_was_inserted_before_a_thread_began_is_seen_by_it() {
    loom::model(|| {
        let translator = Arc::new(Translator::new());
        let writer = Arc::clone(&translator);
        let writer = thread::spawn(move || writer.insert(5 * P, P, Iova(0x10_0000)).unwrap());
        let early = translator.lookup(5 * P, P);
        assert!([None, Some(Iova(0x10_0000))].contains(&early));
        writer.join().unwrap();
        assert_eq!(translator.lookup(5 * P, P), Some(Iova(0x10_0000)));
    });
}

#[test]
fn memory_that_is_mapped_twice_is_found_while_one_mapping_goes() {
    loom::model(|| {
        let translator = Arc::new(Translator::new());
        translator.insert(2 * P, P, Iova(0x10_0000)).unwrap();
        translator.insert(2 * P, P, Iova(0x20_0000)).unwrap();
        let reader = Arc::clone(&translator);
        let reader = thread::spawn(move || reader.lookup(2 * P, P));
        translator.remove(2 * P, P, Iova(0x10_0000)).unwrap();
        let seen = reader.join().unwrap().map(|iova| iova.0);
        assert!([Some(0x10_0000), Some(0x20_0000)].contains(&seen), "{seen:x?}");
    });
}

#[test]
fn a_reader_of_several_entries_is_not_disturbed_by_a_later_mapping_of_some() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let translator = Arc::new(Translator::new());
        translator.insert(P, 2 * P, Iova(0x10_0000)).unwrap();
        let reader = Arc::clone(&translator);
        let reader = thread::spawn(move || reader.lookup(P, 2 * P));
        translator.insert(2 * P, P, Iova(0x20_0000)).unwrap();
        translator.remove(2 * P, P, Iova(0x20_0000)).unwrap();
        assert_eq!(reader.join().unwrap(), Some(Iova(0x10_0000)));
    });
}
