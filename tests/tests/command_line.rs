//! What the command line says to those who use it wrongly, or on a machine that cannot do it.

use std::process::Command;

use mainstay_tests::{Lab, example};

#[test]
fn a_wrong_site_file_is_refused_with_code_2_and_every_error() {
    let lab = Lab::with_own_copy(&example("1-single/site.toml"));
    let text = std::fs::read_to_string(lab.file())
        .unwrap()
        .replace("roles", "roels")
        .replace("10.10.0.11", "10.10.0.1");
    std::fs::write(lab.file(), text).unwrap();
    for command in ["check", "plan", "up"] {
        let output = lab.command(&[command, lab.file().to_str().unwrap()]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {errors}");
        assert!(
            errors.contains("did you mean `roles`?") && errors.contains("the router's address"),
            "{errors}"
        );
    }
}

#[test]
fn without_root_up_says_why_it_needs_it_and_what_to_do() {
    let lab = Lab::with_own_copy(&example("1-single/site.toml"));
    // A folder that nobody may enter would be another reason to fail.
    let copy = std::env::temp_dir().join(format!("mainstay-test-bin-{}", std::process::id()));
    std::fs::copy(lab.command(&[]).get_program(), &copy).unwrap();
    let site = "/tmp/mainstay-test-site.toml";
    let smallest = example("1-single/site.toml");
    std::fs::copy(&smallest, site).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["up", site, "--state", "/tmp/mainstay-test-none"])
        .output()
        .unwrap();
    std::fs::remove_file(copy).unwrap();
    std::fs::remove_file(site).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("root") || errors.contains("there is no folder"), "{errors}");
}

#[test]
fn an_unknown_host_or_site_is_told_with_what_there_is() {
    let lab = Lab::new(&example("1-single/site.toml"));
    let output = lab.command(&["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bring one up with `mainstay up SITE`"));
}
