//! What a keeper knows of the data beside it, on disk before what it permits begins.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::Error;
use crate::Place;
use crate::cluster::{Epoch, Found, Stamp};

/// In the data folder, so that it goes where the data go.
const FILE: &str = "mainstay-stamp.json";

/// What there is before mariadbd is started. Data without a stamp are those of a database that was alone until now: they are the
/// beginning of all history.
pub(super) fn found(place: &Place) -> Result<Found, Error> {
    if !place.data.join("mysql").is_dir() {
        return Ok(Found::NoData);
    }
    let path = path(place);
    match fs::read(&path) {
        Ok(text) => {
            let stamp = serde_json::from_slice(&text).map_err(io::Error::from);
            stamp.map(Found::Stopped).map_err(failed("understand", &path))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Found::Stopped(Stamp { epoch: Epoch(0), led: false }))
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Writes it, and returns when it is on disk.
pub(super) fn write(place: &Place, stamp: Stamp) -> Result<(), Error> {
    let path = path(place);
    let text = serde_json::to_vec(&stamp).map_err(io::Error::from).map_err(failed("write", &path))?;
    let new = path.with_extension("new");
    let mut file = File::create(&new).map_err(failed("make", &new))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed("write", &new))?;
    fs::rename(&new, &path).map_err(failed("name", &path))?;
    File::open(&place.data).and_then(|folder| folder.sync_all()).map_err(failed("sync", &place.data))
}

/// The number that mariadbd is to write under: another one each time after it led.
///
/// A replica skips whatever carries its own number. A former primary whose last writes were cut off at its start gets them
/// from its successor, under the number that it wrote them with: with that number still its own it would skip them, and lack
/// acknowledged writes for ever.
pub(super) fn server_id(place: &Place, address: Ipv4Addr) -> Result<u32, Error> {
    let path = place.data.with_extension("number");
    let known = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(u32::from(address)),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let led = !matches!(found(place)?, Found::Stopped(Stamp { led: false, .. }));
    match known {
        Some(number) if !led => Ok(number),
        _ => {
            let mut bytes = [0; 4];
            getrandom::fill(&mut bytes)
                .map_err(io::Error::other)
                .map_err(failed("draw a number for", &path))?;
            // 0 stands for none.
            let number = u32::from_ne_bytes(bytes).max(1);
            fs::write(&path, number.to_string()).map_err(failed("write", &path))?;
            Ok(number)
        }
    }
}

fn path(place: &Place) -> PathBuf {
    place.data.join(FILE)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}
