//! Users and groups by name, as the machine's own databases have them.

use std::ffi::CString;

use nix::unistd::{Group, User, getgrouplist};
use thiserror::Error;

/// Who a child runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
    /// All groups that the user is a member of.
    pub groups: Vec<u32>,
}

/// Why a name leads to nobody.
#[derive(Debug, Error)]
pub enum AccountError {
    /// There is no such user.
    #[error(
        "there is no user {name}; make it with `useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}`"
    )]
    NoUser {
        /// The name.
        name: String,
    },
    /// There is no such group.
    #[error("there is no group {name}; make it with `groupadd --system {name}`")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// The databases cannot be read.
    #[error("{name} cannot be looked up: {source}")]
    LookUp {
        /// The name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Account {
    /// Looks a user up.
    pub fn of(name: &str) -> Result<Self, AccountError> {
        let failed =
            |source: nix::Error| AccountError::LookUp { name: name.to_owned(), source: source.into() };
        let user = User::from_name(name)
            .map_err(failed)?
            .ok_or_else(|| AccountError::NoUser { name: name.to_owned() })?;
        let c_name = CString::new(name).map_err(|_| AccountError::NoUser { name: name.to_owned() })?;
        let groups = getgrouplist(&c_name, user.gid).map_err(failed)?;
        Ok(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.iter().map(|gid| gid.as_raw()).collect(),
        })
    }
}

/// Looks a group's number up.
pub fn group(name: &str) -> Result<u32, AccountError> {
    let failed = |source: nix::Error| AccountError::LookUp { name: name.to_owned(), source: source.into() };
    Group::from_name(name)
        .map_err(failed)?
        .map(|group| group.gid.as_raw())
        .ok_or_else(|| AccountError::NoGroup { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_user_is_told_with_the_command_that_makes_it() {
        let error = Account::of("mainstay-no-such-user").unwrap_err();
        assert!(error.to_string().contains("useradd --system"), "{error}");
        assert_eq!(Account::of("root").unwrap().uid, 0);
    }
}
