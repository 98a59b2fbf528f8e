<?php namespace Guestbook; ?>
<h1>Sign up</h1>
<form class="card narrow" method="post" action="/sign-up">
  <input type="hidden" name="token" value="<?= e($token) ?>">
  <label>Name <input name="name" required maxlength="<?= LONGEST_NAME ?>" autocomplete="username" autofocus></label>
  <label>Password <input type="password" name="password" required minlength="8" autocomplete="new-password"></label>
  <button>Sign up</button>
</form>
