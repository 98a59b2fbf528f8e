<?php namespace Guestbook; ?>
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title><?= e($title) ?> · foobar</title>
  <link rel="stylesheet" href="/style.css">
  <link rel="icon" href="/favicon.svg" type="image/svg+xml">
</head>
<body>
  <header>
    <a class="brand" href="/">foobar</a>
    <nav>
      <?php if ($user): ?>
        <span>Signed in as <strong><?= e($user['name']) ?></strong></span>
        <form method="post" action="/sign-out">
          <input type="hidden" name="token" value="<?= e($token) ?>">
          <button class="quiet">Sign out</button>
        </form>
      <?php else: ?>
        <a href="/sign-in">Sign in</a>
        <a href="/sign-up">Sign up</a>
      <?php endif ?>
    </nav>
  </header>
  <main>
<?= $content ?>
  </main>
  <footer>Answered by <strong><?= e(server()) ?></strong> with release <code><?= e(release()) ?></code></footer>
</body>
</html>
