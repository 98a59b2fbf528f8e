<?php
// The guest book: which request is answered by what. No framework; one function per page.

declare(strict_types=1);

namespace Guestbook;

require __DIR__ . '/database.php';
require __DIR__ . '/session.php';
require __DIR__ . '/pictures.php';
require __DIR__ . '/view.php';

const PER_PAGE = 10;
const LONGEST_NAME = 40;
const LONGEST_MESSAGE = 1000;

/** Something the visitor did wrong: told on the page, with this status. */
final class Mistake extends \RuntimeException
{
    public function __construct(string $message, public readonly int $status = 422)
    {
        parent::__construct($message);
    }
}

function answer(string $method, string $path): void
{
    $method = $method === 'HEAD' ? 'GET' : $method;
    try {
        match ("$method $path") {
            'GET /' => show_entries(),
            'POST /entries' => write_entry(),
            'GET /sign-in' => view('sign-in', ['title' => 'Sign in']),
            'POST /sign-in' => sign_in(),
            'GET /sign-up' => view('sign-up', ['title' => 'Sign up']),
            'POST /sign-up' => sign_up(),
            'POST /sign-out' => sign_out(),
            'GET /api/entries' => list_as_json(),
            'POST /api/entries' => write_as_json(),
            'GET /health' => health(),
            default => view('message', ['title' => 'Not found', 'message' => 'There is no such page.'], 404),
        };
    } catch (Mistake $mistake) {
        if (str_starts_with($path, '/api/')) {
            json(['error' => $mistake->getMessage()], $mistake->status);
            return;
        }
        view('message', ['title' => 'Not quite', 'message' => $mistake->getMessage()], $mistake->status);
    }
}

function show_entries(): void
{
    $page = max(1, (int) ($_GET['page'] ?? 1));
    $count = (int) database()->query('SELECT COUNT(*) FROM entries')->fetchColumn();
    view('entries', [
        'title' => 'Guest book',
        'entries' => entries(PER_PAGE, ($page - 1) * PER_PAGE),
        'page' => $page,
        'pages' => max(1, (int) ceil($count / PER_PAGE)),
        'count' => $count,
    ]);
}

function entries(int $limit, int $offset): array
{
    $statement = database()->prepare(
        'SELECT id, author, message, picture, user_id IS NOT NULL AS known, created_at
         FROM entries ORDER BY id DESC LIMIT ? OFFSET ?',
    );
    $statement->execute([$limit, $offset]);
    return $statement->fetchAll();
}

function write_entry(): void
{
    check_token();
    $user = current_user();
    $picture = store_picture($_FILES['picture'] ?? null);
    insert_entry($user['name'] ?? text('author', LONGEST_NAME), text('message', LONGEST_MESSAGE), $picture, $user);
    redirect('/');
}

function insert_entry(string $author, string $message, ?string $picture, ?array $user): int
{
    $insert = 'INSERT INTO entries (author, message, picture, user_id) VALUES (?, ?, ?, ?)';
    database()->prepare($insert)->execute([$author, $message, $picture, $user['id'] ?? null]);
    return (int) database()->lastInsertId();
}

function sign_up(): void
{
    check_token();
    $name = text('name', LONGEST_NAME);
    $password = (string) ($_POST['password'] ?? '');
    if (strlen($password) < 8) {
        throw new Mistake('A password has at least 8 characters.');
    }
    try {
        database()->prepare('INSERT INTO users (name, password_hash) VALUES (?, ?)')
            ->execute([$name, password_hash($password, PASSWORD_DEFAULT)]);
    } catch (\PDOException $error) {
        if ($error->getCode() === '23000') {
            throw new Mistake('That name is taken.', 409);
        }
        throw $error;
    }
    begin_session((int) database()->lastInsertId());
    redirect('/');
}

function sign_in(): void
{
    check_token();
    $statement = database()->prepare('SELECT id, password_hash FROM users WHERE name = ?');
    $statement->execute([text('name', LONGEST_NAME)]);
    $user = $statement->fetch();
    // Without a user a hash is checked all the same: how long it takes tells nobody who has signed up.
    $hash = $user['password_hash'] ?? '$2y$10$abcdefghijklmnopqrstuuGZ6yr0u1DZ0tN7J6K1b7vC0d0yW1b2e';
    if (!password_verify((string) ($_POST['password'] ?? ''), $hash) || !$user) {
        throw new Mistake('Name and password do not fit.', 403);
    }
    begin_session((int) $user['id']);
    redirect('/');
}

function sign_out(): void
{
    check_token();
    end_session();
    redirect('/');
}

function list_as_json(): void
{
    $limit = min(100, max(1, (int) ($_GET['limit'] ?? 20)));
    json(['server' => server(), 'release' => release(), 'entries' => entries($limit, 0)]);
}

function write_as_json(): void
{
    // Browsers cannot send this type to another site without asking it first, so no token is needed.
    if (!str_starts_with($_SERVER['CONTENT_TYPE'] ?? '', 'application/json')) {
        throw new Mistake('Send application/json.', 415);
    }
    $entry = json_decode((string) file_get_contents('php://input'), true);
    $author = tidy((string) ($entry['author'] ?? ''), 'author', LONGEST_NAME);
    $message = tidy((string) ($entry['message'] ?? ''), 'message', LONGEST_MESSAGE);
    json(['id' => insert_entry($author, $message, null, null), 'server' => server()], 201);
}

function health(): void
{
    try {
        database()->query('SELECT 1 FROM entries LIMIT 1');
        json(['healthy' => true, 'server' => server(), 'release' => release()]);
    } catch (\PDOException) {
        json(['healthy' => false, 'reason' => 'the database does not answer'], 503);
    }
}

/** A text of the form that was sent: there, and not too long. */
function text(string $field, int $longest): string
{
    return tidy((string) ($_POST[$field] ?? ''), $field, $longest);
}

function tidy(string $text, string $field, int $longest): string
{
    $text = trim($text);
    if ($text === '' || !mb_check_encoding($text, 'UTF-8')) {
        throw new Mistake("The field “{$field}” is empty.");
    }
    if (mb_strlen($text) > $longest) {
        throw new Mistake("The field “{$field}” has more than {$longest} characters.");
    }
    return $text;
}

function server(): string
{
    return (string) getenv('MAINSTAY_SERVER');
}

function release(): string
{
    return (string) getenv('MAINSTAY_RELEASE');
}

function redirect(string $path): void
{
    header("Location: $path", true, 303);
}

function json(array $content, int $status = 200): void
{
    http_response_code($status);
    header('Content-Type: application/json');
    echo json_encode($content, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE), "\n";
}
