<?php
// Slow on demand, so that a request can be in flight when something happens. A signal ends a sleep, so there are many.
for ($end = microtime(true) + (int) ($_GET['ms'] ?? 0) / 1000; microtime(true) < $end; usleep(10000));
echo 'two';
