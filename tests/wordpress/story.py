"""WordPress as people meet it: from the install page through a login to a published post that a visitor reads."""

import sys

from browser import browser

site = sys.argv[1].rstrip("/")
PASSWORD = "Correct-Horse-7-Battery"

with browser() as chromium:
    # Whoever comes first is led to the install page.
    chromium.go(site + "/")
    chromium.wait("#weblog_title")
    chromium.write("#weblog_title", "Notes from the harbour")
    chromium.write("#user_login", "ada")
    chromium.write("#pass1", PASSWORD)
    chromium.write("#admin_email", "ada@foobar.com")
    chromium.picture("wordpress-install")
    chromium.click("#submit")
    chromium.see("Success!")

    chromium.go(site + "/wp-login.php")
    chromium.write("#user_login", "ada")
    chromium.write("#user_pass", "a wrong one")
    chromium.click("#wp-submit")
    chromium.see("is incorrect", "#login_error")
    chromium.write("#user_login", "ada")
    chromium.write("#user_pass", PASSWORD)
    chromium.click("#wp-submit")
    chromium.wait("#wpadminbar")
    chromium.see("Dashboard")
    chromium.picture("wordpress-dashboard")

    # A draft by the dashboard's form, which is sent without leaving the page; then published from the list of posts.
    chromium.write("#quick-press #title", "The tide is in")
    chromium.write("#quick-press #content", "Written by a browser, kept by MariaDB.")
    chromium.click("#save-post")
    chromium.wait(".drafts .draft-title")
    chromium.go(site + "/wp-admin/edit.php?post_status=draft&post_type=post")
    # What this page shows beside a title only while a mouse is over it.
    chromium.wait("tr.status-draft")
    chromium.run("document.querySelector('tr.status-draft .row-actions').style.position = 'static'")
    chromium.click("tr.status-draft .editinline")
    chromium.click(".inline-edit-row select[name=_status] option[value=publish]")
    chromium.click(".inline-edit-row .save")
    chromium.wait("tr.status-publish")
    chromium.picture("wordpress-posts")

# A visitor who never signed in: another browser without a cookie.
with browser() as chromium:
    chromium.go(site + "/")
    chromium.see("The tide is in")
    chromium.see("Notes from the harbour")
    chromium.picture("wordpress-front-page")
    chromium.run("[...document.links].find(link => link.textContent.includes('The tide is in')).click()")
    chromium.see("Written by a browser, kept by MariaDB.")
    chromium.picture("wordpress-post")
    chromium.go(site + "/wp-admin/")
    chromium.wait("#loginform")

print("told to its end")
