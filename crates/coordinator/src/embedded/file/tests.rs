use std::time::Duration;

use super::*;
use crate::embedded::api::Request;
use crate::wire::{Base64, Int64, PutRequest};

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mainstay-test-store-").tempdir().unwrap()
}

fn put(machine: &mut Machine, key: &str, value: Vec<u8>) -> Vec<Record> {
    let put = PutRequest { key: Base64(key.as_bytes().to_vec()), value: Base64(value), lease: Int64(0) };
    machine.handle(Request::Put(put), Duration::ZERO).1.into_iter().collect()
}

#[test]
fn what_was_appended_is_there_when_it_is_opened_again() {
    let folder = folder();
    let path = folder.path().join("store");
    let (mut file, mut machine) = StoreFile::open(&path, Limits::default()).unwrap();
    for key in ["a", "b", "c"] {
        file.append(&put(&mut machine, key, vec![1])).unwrap();
    }
    drop(file);
    // As if it had died in the middle of a line.
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"01234567 9 [{\"wri").unwrap();
    let (mut file, again) = StoreFile::open(&path, Limits::default()).unwrap();
    assert_eq!(again, machine);
    file.append(&put(&mut machine, "d", vec![1])).unwrap();
    drop(file);
    assert_eq!(StoreFile::open(&path, Limits::default()).unwrap().1, machine);
}

#[test]
fn one_process_has_a_store() {
    let folder = folder();
    let path = folder.path().join("store");
    let open = StoreFile::open(&path, Limits::default()).unwrap();
    assert!(matches!(StoreFile::open(&path, Limits::default()), Err(OpenError::InUse { .. })));
    drop(open);
    StoreFile::open(&path, Limits::default()).unwrap();
}

#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let path = folder.path().join("store");
    let _open = StoreFile::open(&path, Limits::default()).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_file_does_not_grow_beyond_what_is_held() {
    let folder = folder();
    let path = folder.path().join("store");
    let (mut file, mut machine) =
        StoreFile::open(&path, Limits { history_bytes: 1 << 20, ..Limits::default() }).unwrap();
    let mut longest = 0;
    for number in 0_u32..80 {
        file.append(&put(&mut machine, "key", vec![number as u8; 256 << 10])).unwrap();
        longest = longest.max(file.bytes());
        file.rewrite_if_due(&machine).unwrap();
    }
    assert!(longest < 10 << 20, "{longest}");
    assert!(!folder.path().join("store.new").exists());
    drop(file);
    assert_eq!(
        StoreFile::open(&path, Limits { history_bytes: 1 << 20, ..Limits::default() }).unwrap().1,
        machine
    );
}

#[test]
fn what_could_not_be_written_did_not_happen() {
    let folder = folder();
    let path = folder.path().join("store");
    let (mut file, mut machine) = StoreFile::open(&path, Limits::default()).unwrap();
    file.append(&put(&mut machine, "a", vec![1])).unwrap();
    let durable = machine.clone();
    file.file = OpenOptions::new().append(true).open("/dev/full").unwrap();
    file.append(&put(&mut machine, "b", vec![1])).unwrap_err();
    let mut machine = file.reload().unwrap();
    assert_eq!(machine, durable);
    // There is room again.
    file.append(&put(&mut machine, "c", vec![1])).unwrap();
    // A sync that failed: the file is begun anew before it is used again.
    file.distrusted = true;
    assert_eq!(file.reload().unwrap(), machine);
    assert!(!file.distrusted);
    file.append(&put(&mut machine, "d", vec![1])).unwrap();
    drop(file);
    assert_eq!(StoreFile::open(&path, Limits::default()).unwrap().1, machine);
}

#[test]
fn a_damaged_store_is_not_opened_and_not_touched() {
    let folder = folder();
    let path = folder.path().join("store");
    let (mut file, mut machine) = StoreFile::open(&path, Limits::default()).unwrap();
    for key in ["a", "b", "c"] {
        file.append(&put(&mut machine, key, vec![1])).unwrap();
    }
    drop(file);
    let mut text = std::fs::read(&path).unwrap();
    let middle = text.len() / 2;
    text[middle] ^= 1;
    std::fs::write(&path, &text).unwrap();
    let error = StoreFile::open(&path, Limits::default()).unwrap_err();
    assert!(
        matches!(error, OpenError::Damaged { .. }) && error.to_string().contains("Restore it from a copy"),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), text);
    std::fs::write(&path, "something else\n").unwrap();
    assert!(matches!(
        StoreFile::open(&path, Limits::default()),
        Err(OpenError::Damaged { damage: Damage::Foreign, .. })
    ));
}
