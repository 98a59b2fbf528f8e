<?php
// WordPress' own configuration, out of the environment that Mainstay gives to every app.

define('DB_NAME', getenv('DATABASE_NAME'));
define('DB_USER', getenv('DATABASE_USER'));
define('DB_PASSWORD', getenv('DATABASE_PASSWORD'));
define('DB_HOST', 'localhost:' . getenv('DATABASE_SOCKET'));
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');

// One generated secret, told apart by name.
foreach (['AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE'] as $name) {
    define("{$name}_KEY", hash_hmac('sha256', "{$name}_KEY", getenv('WORDPRESS_KEY')));
    define("{$name}_SALT", hash_hmac('sha256', "{$name}_SALT", getenv('WORDPRESS_KEY')));
}

// The site is where the visitor asked for it: by its name, or on a port of the machine that the lab runs on.
$scheme = ($_SERVER['HTTPS'] ?? '') === 'on' ? 'https' : 'http';
define('WP_HOME', "$scheme://" . ($_SERVER['HTTP_HOST'] ?? 'www.foobar.com'));
define('WP_SITEURL', WP_HOME);

// The lab has no way out: nothing is fetched from anywhere, and the releases are Mainstay's to change.
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('DISABLE_WP_CRON', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('DISALLOW_FILE_MODS', true);

$table_prefix = 'wp_';
if (!defined('ABSPATH')) {
    define('ABSPATH', __DIR__ . '/');
}
require_once ABSPATH . 'wp-settings.php';
