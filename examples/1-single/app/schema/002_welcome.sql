INSERT INTO entries (author, message) VALUES
    ('Mainstay', 'Welcome to the guest book of www.foobar.com. Sign it, add a picture, come back.');
