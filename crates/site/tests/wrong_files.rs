//! Every wrong site file of `tests/wrong` gets the message that its snapshot holds: all errors, each with its place and
//! what would be right.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::path::Path;

use mainstay_site::Site;

#[test]
fn every_wrong_file_is_refused_with_the_expected_message() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 30, "only {} wrong files", names.len());
    insta::with_settings!({ snapshot_path => "wrong", prepend_module_to_snapshot => false, omit_expression => true }, {
        for name in names {
            let text = std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
            let errors = Site::parse(&text, "site.toml").expect_err(&name);
            insta::assert_snapshot!(name, errors.to_string());
        }
    });
}

#[test]
fn errors_for_programs_have_line_and_column() {
    let text = "[site]\ndomain = \"foobar.com\"\nnaem = \"x\"\n";
    let errors = Site::parse(text, "site.toml").unwrap_err();
    let placed = errors.placed();
    let unknown = placed.iter().find(|problem| problem.message.contains("naem")).unwrap();
    assert_eq!((unknown.line, unknown.column), (3, 1));
    assert_eq!(unknown.help.as_deref(), Some("did you mean `name`?"));
}
