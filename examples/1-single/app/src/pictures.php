<?php
// Pictures: decoded and encoded anew, so that what is stored is a picture and nothing else, whatever was sent.

declare(strict_types=1);

namespace Guestbook;

const LARGEST_PICTURE = 8 * 1024 * 1024;
const MOST_PIXELS = 24_000_000;
const LONGEST_SIDE = 1200;

/** Stores an uploaded picture and returns its name, or null if none was sent. */
function store_picture(?array $upload): ?string
{
    if ($upload === null || $upload['error'] === UPLOAD_ERR_NO_FILE) {
        return null;
    }
    if ($upload['error'] !== UPLOAD_ERR_OK || $upload['size'] > LARGEST_PICTURE) {
        throw new Mistake('The picture is larger than 8 MB.', 413);
    }
    $size = @getimagesize($upload['tmp_name']);
    $known = [IMAGETYPE_PNG, IMAGETYPE_JPEG, IMAGETYPE_GIF, IMAGETYPE_WEBP];
    if (!$size || !in_array($size[2], $known, true) || $size[0] * $size[1] > MOST_PIXELS) {
        throw new Mistake('That is no PNG, JPEG, GIF or WebP picture of a sensible size.', 415);
    }
    $picture = @imagecreatefromstring((string) file_get_contents($upload['tmp_name']));
    if (!$picture) {
        throw new Mistake('The picture cannot be read.', 415);
    }
    if (max($size[0], $size[1]) > LONGEST_SIDE) {
        $width = (int) round($size[0] * LONGEST_SIDE / max($size[0], $size[1]));
        $picture = imagescale($picture, max(1, $width)) ?: $picture;
    }
    $name = bin2hex(random_bytes(16)) . '.png';
    imagesavealpha($picture, true);
    if (!imagepng($picture, __DIR__ . "/../public/uploads/$name")) {
        throw new \RuntimeException('the picture cannot be stored');
    }
    return $name;
}
