<?php namespace Guestbook; ?>
<h1><?= e($title) ?></h1>
<p class="card"><?= e($message) ?></p>
<p><a href="/">Back to the guest book</a></p>
