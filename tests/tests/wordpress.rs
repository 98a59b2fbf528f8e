//! An app that no one here wrote: Debian's WordPress, unmodified, from its install page to a published post.

use std::path::Path;
use std::process::Command;

use mainstay_tests::Lab;

#[test]
fn debians_wordpress_is_installed_and_publishes_a_post_in_a_real_browser() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("wordpress");
    let lab = Lab::with_own_copy(&source.join("site.toml"));
    let folder = lab.file().parent().unwrap().to_owned();
    let public = folder.join("code/public");
    std::fs::create_dir(folder.join("code")).unwrap();
    let copied = Command::new("cp").args(["-rL", "/usr/share/wordpress"]).arg(&public).status().unwrap();
    assert!(copied.success(), "is Debian's package `wordpress` installed? `make test` installs it");
    std::fs::copy(folder.join("wp-config.php"), public.join("wp-config.php")).unwrap();
    let output = lab.up_again();
    assert!(output.contains("checks passed"), "{output}");

    let output = Command::new("python3")
        .arg("-I")
        .arg(folder.join("visit.py"))
        .arg(lab.url())
        .arg(&folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // For people who want to see it.
    if let Some(pictures) = std::env::var_os("MAINSTAY_SCREENSHOTS") {
        for name in ["front.png", "dashboard.png"] {
            std::fs::copy(folder.join(name), Path::new(&pictures).join(name)).unwrap();
        }
    }
    // The address of a post is pretty, and the site's other name shows it too.
    let page = lab.visit("http://www.foobar.com/", &[]);
    assert!(page.body.contains("Published through the editor"), "{page:?}");
    assert_eq!(lab.visit("http://www.foobar.com/wp-config.php", &[]).body, "");
    assert_eq!(lab.visit("http://www.foobar.com/wp-admin", &[]).status, 301);
}
