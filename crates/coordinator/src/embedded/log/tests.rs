use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::embedded::api::Request;
use crate::embedded::machine::tests::request;
use crate::wire::{Base64, Int64, PutRequest};

const SALT: [u8; 16] = [3; 16];

/// A machine, its file, and how long the file and what machine it stood for after each line.
fn lived(requests: Vec<Request>) -> (Vec<u8>, Vec<(usize, Machine)>) {
    let mut machine = Machine::new(9, Limits::default());
    let (mut log, mut file) = Log::begin(SALT, 9, &machine);
    let mut stages = vec![(file.len(), machine.clone())];
    let mut now = Duration::ZERO;
    let mut records = Vec::new();
    for (place, request) in requests.into_iter().enumerate() {
        now += Duration::from_millis(40);
        records.extend(machine.expire(now));
        records.extend(machine.handle(request, now).1);
        // Some lines carry several records, as when many share a sync.
        if place % 3 != 0 && !records.is_empty() {
            file.extend(log.line(&std::mem::take(&mut records)));
            stages.push((file.len(), machine.clone()));
        }
    }
    (file, stages)
}

fn same(loaded: &Machine, lived: &Machine) -> bool {
    let (mut loaded, mut lived) = (loaded.clone(), lived.clone());
    loaded.restart_leases(Duration::ZERO);
    lived.restart_leases(Duration::ZERO);
    loaded == lived
}

/// The crash simulation: many lives from seeds, each killed at every byte of its file. What was acknowledged is there, what was
/// not is not, half a line is cut, and the store goes on from there.
#[test]
fn a_crash_at_any_byte_leaves_exactly_what_was_acknowledged() {
    for seed in 0..60_u64 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let requests = proptest::collection::vec(request(), 1..25).new_tree(&mut runner).unwrap().current();
        let (file, stages) = lived(requests);
        let begun = stages[0].0;
        for length in 0..=file.len() {
            let loaded = read(&file[..length], Limits::default());
            if length < begun {
                // The beginning gets its name only when it is whole, so this cannot be a crash.
                assert!(loaded.is_err(), "seed {seed}, killed at byte {length}");
                continue;
            }
            let loaded =
                loaded.unwrap_or_else(|damage| panic!("seed {seed}, killed at byte {length}: {damage}"));
            let (sound, machine) = stages.iter().rev().find(|(bytes, _)| *bytes <= length).unwrap();
            assert_eq!(loaded.sound_bytes, *sound, "seed {seed}, killed at byte {length}");
            assert!(same(&loaded.machine, machine), "seed {seed}, killed at byte {length}");
        }
    }
}

/// The tail of a file may also be there in length only, or in part: blocks of the last line that never reached the disk.
#[test]
fn a_last_line_with_holes_is_cut() {
    let (file, stages) = lived(vec![put("a"), put("b"), put("c"), put("d"), put("e"), put("f")]);
    let (whole, _) = stages[stages.len() - 2];
    for hole in whole..file.len() {
        let mut torn = file.clone();
        torn[whole..=hole].fill(0);
        assert_eq!(read(&torn, Limits::default()).unwrap().sound_bytes, whole);
        torn[hole..].fill(0);
        assert_eq!(read(&torn, Limits::default()).unwrap().sound_bytes, whole);
    }
}

#[test]
fn damage_before_the_last_line_is_an_error_and_nothing_is_cut() {
    let (file, stages) = lived(vec![put("a"), put("b"), put("c"), put("d"), put("e"), put("f")]);
    let (last, _) = stages[stages.len() - 2];
    for place in 0..last {
        for change in [0x01, 0x80] {
            let mut damaged = file.clone();
            damaged[place] ^= change;
            assert!(read(&damaged, Limits::default()).is_err(), "byte {place}");
        }
    }
    // A line that is missing altogether.
    let (from, to) = (stages[1].0, stages[2].0);
    let mut missing = file[..from].to_vec();
    missing.extend(&file[to..]);
    let error = read(&missing, Limits::default()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_value_that_looks_like_a_line_is_not_taken_for_one() {
    // Whoever writes it does not know the salt.
    let (mut other, _) = Log::begin([4; 16], 9, &Machine::new(9, Limits::default()));
    other.next = 50;
    let forged = other.line(&[Record::Compact { revision: 1 }]);
    let (mut file, stages) = lived(vec![put("a"), put("b"), put("c")]);
    file.truncate(stages.last().unwrap().0);
    file.extend(b"torn\n");
    file.extend(forged);
    assert_eq!(read(&file, Limits::default()).unwrap().sound_bytes, stages.last().unwrap().0);
}

fn put(key: &str) -> Request {
    Request::Put(PutRequest {
        key: Base64(key.as_bytes().to_vec()),
        value: Base64(vec![b'v'; 20]),
        lease: Int64(0),
    })
}

proptest! {
    #[test]
    fn a_file_that_is_begun_anew_says_the_same(requests in proptest::collection::vec(request(), 0..40)) {
        let (_, stages) = lived(requests);
        let machine = &stages.last().unwrap().1;
        let (log, file) = Log::begin(SALT, 9, machine);
        let loaded = read(&file, Limits::default()).unwrap();
        prop_assert!(same(&loaded.machine, machine));
        prop_assert_eq!(loaded.log, log);
        prop_assert_eq!(loaded.sound_bytes, file.len());
        // Its beginning is all or nothing.
        for length in 0..file.len() {
            prop_assert!(read(&file[..length], Limits::default()).is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, Limits::default());
        let mut file = lived(vec![put("a"), put("b"), put("c")]).0;
        file.extend(&bytes);
        let _ = read(&file, Limits::default());
    }
}
