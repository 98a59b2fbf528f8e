<?php namespace Guestbook; ?>
<h1>Guest book</h1>
<form class="card" method="post" action="/entries" enctype="multipart/form-data">
  <input type="hidden" name="token" value="<?= e($token) ?>">
  <?php if (!$user): ?>
    <label>Your name <input name="author" required maxlength="<?= LONGEST_NAME ?>" autocomplete="nickname"></label>
  <?php endif ?>
  <label>Your message <textarea name="message" required maxlength="<?= LONGEST_MESSAGE ?>" rows="3"></textarea></label>
  <label>A picture, if you like <input type="file" name="picture" accept="image/png,image/jpeg,image/gif,image/webp"></label>
  <button>Sign the guest book</button>
</form>
<p class="count"><?= e($count) ?> <?= $count === 1 ? 'entry' : 'entries' ?></p>
<?php foreach ($entries as $entry): ?>
  <article class="card">
    <p class="message"><?= nl2br(e($entry['message'])) ?></p>
    <?php if ($entry['picture']): ?>
      <img src="/uploads/<?= e($entry['picture']) ?>" alt="A picture that <?= e($entry['author']) ?> added" loading="lazy">
    <?php endif ?>
    <p class="by"><strong><?= e($entry['author']) ?></strong><?= $entry['known'] ? ' <span class="known">member</span>' : '' ?>
      <time datetime="<?= e(str_replace(' ', 'T', $entry['created_at'])) ?>Z"><?= e($entry['created_at']) ?></time></p>
  </article>
<?php endforeach ?>
<?php if ($pages > 1): ?>
  <nav class="pages" aria-label="Pages">
    <?php if ($page > 1): ?><a href="/?page=<?= e($page - 1) ?>">Newer</a><?php endif ?>
    <span>Page <?= e($page) ?> of <?= e($pages) ?></span>
    <?php if ($page < $pages): ?><a href="/?page=<?= e($page + 1) ?>">Older</a><?php endif ?>
  </nav>
<?php endif ?>
