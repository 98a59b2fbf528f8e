<?php
// Sessions live in the database, so that any server can answer the next request. The cookie holds a random token; the
// table only its hash, so that who reads the table cannot sign in with it.

declare(strict_types=1);

namespace Guestbook;

const COOKIE = 'guestbook';
const FORM_COOKIE = 'guestbook_form';
const SESSION_SECONDS = 14 * 86400;

/** Who is signed in, if anyone. */
function current_user(): ?array
{
    static $user = false;
    if ($user === false) {
        $user = null;
        $token = $_COOKIE[COOKIE] ?? '';
        if (is_string($token) && $token !== '') {
            $statement = database()->prepare(
                'SELECT users.id, users.name FROM sessions JOIN users ON users.id = sessions.user_id
                 WHERE token_hash = ? AND expires_at > CURRENT_TIMESTAMP',
            );
            $statement->execute([hash('sha256', $token)]);
            $user = $statement->fetch() ?: null;
        }
    }
    return $user;
}

function begin_session(int $user): void
{
    end_session();
    $token = bin2hex(random_bytes(32));
    database()->prepare(
        'INSERT INTO sessions (token_hash, user_id, expires_at)
         VALUES (?, ?, CURRENT_TIMESTAMP + INTERVAL ? SECOND)',
    )->execute([hash('sha256', $token), $user, SESSION_SECONDS]);
    send_cookie(COOKIE, $token, time() + SESSION_SECONDS);
}

function end_session(): void
{
    $token = $_COOKIE[COOKIE] ?? '';
    if (is_string($token) && $token !== '') {
        database()->prepare('DELETE FROM sessions WHERE token_hash = ? OR expires_at < CURRENT_TIMESTAMP')
            ->execute([hash('sha256', $token)]);
        send_cookie(COOKIE, '', 1);
    }
}

function send_cookie(string $name, string $value, int $expires): void
{
    setcookie($name, $value, [
        'expires' => $expires,
        'path' => '/',
        'secure' => ($_SERVER['HTTPS'] ?? '') === 'on',
        'httponly' => true,
        'samesite' => 'Lax',
    ]);
}

/** The token that our forms carry and a cookie holds too: another site can send the form, but cannot know the token. */
function csrf_token(): string
{
    static $token = null;
    if ($token === null) {
        $token = $_COOKIE[FORM_COOKIE] ?? '';
        if (!is_string($token) || !preg_match('/^[0-9a-f]{32}$/', $token)) {
            $token = bin2hex(random_bytes(16));
            send_cookie(FORM_COOKIE, $token, time() + SESSION_SECONDS);
        }
    }
    return $token;
}

/** Refuses a form that was not sent from our own page. */
function check_token(): void
{
    $sent = $_POST['token'] ?? '';
    $known = $_COOKIE[FORM_COOKIE] ?? '';
    if (!is_string($sent) || !is_string($known) || $known === '' || !hash_equals($known, $sent)) {
        throw new Mistake('The form is too old; go back, load the page again and send it once more.', 403);
    }
}
