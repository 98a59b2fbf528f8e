<?php
// WordPress as an app of Mainstay: everything that differs from site to site comes from the environment.

define('DB_NAME', getenv('DATABASE_NAME'));
define('DB_USER', getenv('DATABASE_USER'));
define('DB_PASSWORD', getenv('DATABASE_PASSWORD'));
define('DB_HOST', getenv('DATABASE_SOCKET')
    ? 'localhost:' . getenv('DATABASE_SOCKET')
    : getenv('DATABASE_HOST') . ':' . getenv('DATABASE_PORT'));
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
$table_prefix = 'wp_';

// Eight keys out of one generated secret.
foreach (['AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE'] as $name) {
    foreach (['KEY', 'SALT'] as $kind) {
        define("{$name}_{$kind}", hash_hmac('sha256', "{$name}_{$kind}", getenv('WORDPRESS_SALT')));
    }
}

// The same site under its own name and on the localhost port. The web role takes requests for this site's names only.
$scheme = ($_SERVER['HTTPS'] ?? 'off') === 'off' || $_SERVER['HTTPS'] === '' ? 'http' : 'https';
define('WP_HOME', $scheme . '://' . ($_SERVER['HTTP_HOST'] ?? 'localhost'));
define('WP_SITEURL', WP_HOME);

// Debian's package comes without a theme; this one lies in wp-content/themes.
define('WP_DEFAULT_THEME', 'harbour');

// A release never changes, and a server asks nothing of the outside world while a visitor waits.
define('DISALLOW_FILE_MODS', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('DISABLE_WP_CRON', true);

if (!defined('ABSPATH')) {
    define('ABSPATH', __DIR__ . '/public/');
}
require_once ABSPATH . 'wp-settings.php';
