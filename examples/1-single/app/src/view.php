<?php
// Pages: a template inside the common frame, everything escaped.

declare(strict_types=1);

namespace Guestbook;

function view(string $template, array $values, int $status = 200): void
{
    // Before the first byte of the page: it may set a cookie.
    $values['token'] = csrf_token();
    $values['user'] = current_user();
    http_response_code($status);
    header('Content-Type: text/html; charset=utf-8');
    header('Cache-Control: no-store');
    header("Content-Security-Policy: default-src 'self'; frame-ancestors 'none'; form-action 'self'");
    header('X-Content-Type-Options: nosniff');
    header('Referrer-Policy: same-origin');
    extract($values);
    ob_start();
    require __DIR__ . "/../templates/$template.php";
    $content = ob_get_clean();
    require __DIR__ . '/../templates/frame.php';
}

function e(string|int $text): string
{
    return htmlspecialchars((string) $text, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
}
