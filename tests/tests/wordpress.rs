//! An app that no one here wrote: Debian's `WordPress`, unmodified, used through a real browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use mainstay_tests::Lab;

fn ours(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("wordpress").join(name)
}

fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn debians_wordpress_goes_from_its_install_page_to_a_published_post() {
    assert!(
        Path::new("/usr/share/wordpress/index.php").exists(),
        "the package is missing; run `apt-get install --no-install-recommends wordpress chromium-driver`"
    );
    let lab = Lab::with_own_copy(&ours("site.toml"));
    let code = lab.file().parent().unwrap().join("code");
    let public = code.join("public");
    std::fs::create_dir(&code).unwrap();
    // The package consists of links in part: what they lead to is the code base.
    must(Command::new("cp").arg("-rL").arg("/usr/share/wordpress").arg(&public));
    // WordPress looks for its configuration one folder up too, where no visitor ever gets.
    std::fs::remove_file(public.join("wp-config.php")).unwrap();
    std::fs::copy(ours("wp-config.php"), code.join("wp-config.php")).unwrap();
    std::fs::create_dir_all(public.join("wp-content/uploads")).unwrap();
    // Debian ships the themes apart, so the site brings one of its own.
    must(Command::new("cp").arg("-r").arg(ours("theme")).arg(public.join("wp-content/themes/harbour")));
    let output = lab.up_again();
    assert!(output.contains("checks passed"), "{output}");

    let first = lab.visit("http://www.foobar.com/", &[]);
    assert_eq!(
        (first.status, first.header("location")),
        (302, Some("http://www.foobar.com/wp-admin/install.php")),
        "{first:?}"
    );
    let story = must(Command::new("/usr/bin/python3").arg("-B").arg(ours("story.py")).arg(lab.url()));
    assert!(story.ends_with("told to its end\n"), "{story}");

    // The visitor's host reads it by the site's name.
    let page = lab.visit("http://www.foobar.com/", &[]);
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.body.contains("The tide is in"), "{}", page.body);
    for secret in ["/wp-config.php", "/.htaccess"] {
        let answer = lab.visit(&format!("http://www.foobar.com{secret}"), &[]);
        assert!(!answer.body.contains("DATABASE_") && !answer.body.contains("Rewrite"), "{answer:?}");
    }
}
