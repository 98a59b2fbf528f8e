<?php
// One connection per request, to where the environment says.

declare(strict_types=1);

namespace Guestbook;

function database(): \PDO
{
    static $database = null;
    $socket = getenv('DATABASE_SOCKET');
    $place = $socket
        ? "unix_socket=$socket"
        : 'host=' . getenv('DATABASE_HOST') . ';port=' . getenv('DATABASE_PORT');
    return $database ??= new \PDO(
        "mysql:$place;charset=utf8mb4;dbname=" . getenv('DATABASE_NAME'),
        getenv('DATABASE_USER'),
        getenv('DATABASE_PASSWORD'),
        [
            \PDO::ATTR_ERRMODE => \PDO::ERRMODE_EXCEPTION,
            \PDO::ATTR_DEFAULT_FETCH_MODE => \PDO::FETCH_ASSOC,
            \PDO::ATTR_EMULATE_PREPARES => false,
            \PDO::ATTR_TIMEOUT => 5,
        ],
    );
}
