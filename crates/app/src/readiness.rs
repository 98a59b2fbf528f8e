//! Which question tells that a PHP app is ready: php-fpm's ping, or a path of the app's own, asked for as the web server would.

use std::path::{Path, PathBuf};

use mainstay_process::Probe;
use mainstay_site::plan::{Backend, WebApp};

use crate::php::PING_PATH;

/// The path, if one is given and a script answers it; else the ping. What the web server answers from a file by itself says
/// nothing of php-fpm.
pub(crate) fn php(path: Option<&str>, web: Option<&WebApp>, socket: PathBuf) -> Probe {
    let asked = path.zip(web).and_then(|(path, web)| {
        let Backend::FastCgi { front_controller, .. } = &web.backend else { return None };
        let exists = |script: &str| web.public.join(script.trim_start_matches('/')).is_file();
        let script = script(path.split('?').next()?, front_controller.as_deref(), exists)?;
        Some((path, script, &web.public))
    });
    match asked {
        Some((path, script, public)) => {
            Probe::FastCgiGet { socket, public: public.clone(), script, path: path.to_owned() }
        }
        None => Probe::FastCgiPing { socket, path: PING_PATH.to_owned() },
    }
}

/// The script that answers a path: one that it names, a folder's index, or the front controller, as the web server chooses. Where
/// there is no front controller, a script that does not exist is asked for all the same: it is to fail.
fn script(path: &str, front_controller: Option<&str>, exists: impl Fn(&str) -> bool) -> Option<String> {
    let is_it = |script: &str| front_controller.is_none() || exists(script);
    let ends = path.match_indices('/').map(|(end, _)| end).skip(1).chain([path.len()]);
    let mut beginnings = ends.map(|end| &path[..end]);
    let named = beginnings.find(|script| is_script(script) && is_it(script)).map(str::to_owned);
    let index = path.ends_with('/').then(|| format!("{path}index.php")).filter(|script| is_it(script));
    named.or(index).or_else(|| front_controller.map(str::to_owned))
}

fn is_script(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "php")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_the_one_that_the_web_server_would_choose() {
        let there = |script: &str| ["/health.php", "/blog/index.php"].contains(&script);
        let of = |path, front| script(path, front, there);
        let front = Some("/index.php");
        assert_eq!(of("/health", front).as_deref(), front);
        assert_eq!(of("/health.php", front).as_deref(), Some("/health.php"));
        assert_eq!(of("/health.php/deep", front).as_deref(), Some("/health.php"));
        assert_eq!(of("/gone.php", front).as_deref(), front);
        assert_eq!(of("/blog/", front).as_deref(), Some("/blog/index.php"));
        assert_eq!(of("/shop/", front).as_deref(), front);
        assert_eq!(of("/gone.php", None).as_deref(), Some("/gone.php"));
        assert_eq!(of("/", None).as_deref(), Some("/index.php"));
        assert_eq!(of("/health", None), None);
    }
}
