<?php
// The front controller: every path that is no file of this folder comes here.

declare(strict_types=1);

require __DIR__ . '/../src/guestbook.php';

Guestbook\answer($_SERVER['REQUEST_METHOD'], parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/');
