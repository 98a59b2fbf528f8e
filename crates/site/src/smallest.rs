//! The smallest site, for those who have none yet: written, shown and used by `mainstay up` without a file.

/// The smallest site file.
pub const SITE_FILE: &str = r#"# A website on one server. `mainstay check site.toml` tells what is wrong with a file like this,
# `mainstay plan site.toml` what each server will do, `mainstay up site.toml` brings it up here.

[site]
domain = "foobar.com"                 # answers to www.foobar.com and foobar.com

[server.server1]
address = "10.10.0.11"
roles = ["dns", "web", "app", "database"]

[app.hello]
kind = "php"                          # or "python", or any "command"
code = "app"                          # the code base, beside this file
front_controller = "/index.php"       # answers every path that is no file
schema = "schema"                     # app/schema/*.sql, each applied once
"#;

/// Its app: one page that counts its visits in the database.
pub const INDEX_PHP: &str = r#"<?php
// One page that reads and writes the database, and tells who answered.
$database = new PDO(
    'mysql:unix_socket=' . getenv('DATABASE_SOCKET') . ';dbname=' . getenv('DATABASE_NAME'),
    getenv('DATABASE_USER'),
    getenv('DATABASE_PASSWORD'),
);
$database->exec('UPDATE visits SET count = count + 1');
$visits = $database->query('SELECT count FROM visits')->fetchColumn();
$server = htmlspecialchars(getenv('MAINSTAY_SERVER'));
$release = htmlspecialchars(getenv('MAINSTAY_RELEASE'));
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>It stands</title>
<h1>It stands.</h1>
<p>Visit number <?= (int) $visits ?>, answered by <?= $server ?> with release <?= $release ?>.</p>
</html>
"#;

/// Its schema.
pub const SCHEMA_SQL: &str = "CREATE TABLE visits (count INT NOT NULL);\nINSERT INTO visits VALUES (0);\n";

/// The files of the smallest site, each with its path relative to the folder.
pub const FILES: [(&str, &str); 3] = [
    ("site.toml", SITE_FILE),
    ("app/public/index.php", INDEX_PHP),
    ("app/schema/001_visits.sql", SCHEMA_SQL),
];
