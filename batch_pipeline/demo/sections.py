"""The sections of the Debian archive, and words that speak for each."""

SECTIONS = {
    "admin": (
        "system, administration, admin, daemon, cron, puppet, backup, monitoring, "
        "service, host, jobs, tool"
    ),
    "cli-mono": "cil, libmono, Mono, CLI, CLR, assembly, bytecode",
    "comm": "phone, telephony, asterisk, PBX, modem, GSM, VoIP, serial",
    "database": "SQL, PostgreSQL, MariaDB, MySQL, SQLite, database, ODBC, server, replication",
    "debug": "dbg, debugging symbols, gdb, dbgsym",
    "devel": (
        "compiler, gcc, cross, GNU, architecture, multilib, gnuabi64, build, programming, "
        "developers, parser generator"
    ),
    "doc": "doc, documentation, manual, HTML, examples, tutorial, common files",
    "editors": "editor, vim, edit, syntax highlighting, text mode, spelling",
    "education": "learning, students, school, teaching, vocabulary, training",
    "electronics": "circuit, PCB, schematic, board, microcontroller, simulator, CAD, KiCad",
    "embedded": "embedded, handheld, kiosk, small devices",
    "fonts": "fonts, typeface, glyph, TrueType, serif, sans, Unicode",
    "games": "game, play, arcade, puzzle, level, multiplayer, enemy",
    "gnome": "GNOME, GTK desktop, applet, nautilus, shell extension, icon theme",
    "gnu-r": "cran, bioc, GNU R, Bioconductor, statistical functions",
    "gnustep": "GNUstep, NeXTSTEP, app",
    "golang": "golang, go, github, gopkg, com, dev, struct",
    "graphics": "image, graphics, OCR, tesseract, photo, drawing, render, scanner, picture, 3D",
    "hamradio": "amateur radio, SDR, soapysdr, ham, receiver",
    "haskell": "libghc, haskell, prof, profiling, hackage",
    "httpd": "nginx, apache, libapache2, mod, lighttpd, HTTP server module",
    "interpreters": "lua, tcl, pike, interpreter, scripting language, scheme",
    "introspection": "gir1, introspection, GObject, girepository, typelib",
    "java": "java, maven, eclipse, OSGi, bundle, apache, clojure, JVM",
    "javascript": "node, js, javascript, Node.js, browser, event based server side engine",
    "kde": "KDE, plasma, breeze, kirigami, qt desktop",
    "kernel": "kernel, linux image, dkms, module, headers, hurd",
    "libdevel": "dev, development, headers, static library, libraries needed build applications",
    "libs": "shared library, runtime, lib, C++ library, contains, platform, functionality, abi",
    "lisp": "elpa, emacs, lisp, common lisp, cl, guile, scheme",
    "localization": (
        "l10n, language pack, locale, translation, hyphenation, thesaurus, myspell, hunspell"
    ),
    "mail": "mail, email, IMAP, SMTP, mailbox, maildir, spam, MTA",
    "math": (
        "octave, mathematics, mathematical, algebra, polynomial, computation, maxima, "
        "theorem, numerical, theory"
    ),
    "metapackages": "metapackage, depends, installs, blend, debian will, recommends",
    "misc": "miscellaneous, vala, submitted, user data",
    "net": (
        "network, protocol, client, server, daemon, IRC, TCP, IP, DNS, VPN, FTP, traffic, "
        "bluetooth, remote"
    ),
    "news": "usenet, newsreader, NNTP, inn",
    "ocaml": "ocaml, caml, coq, ppx, toplevel, libcoq, OCaml libraries, dev",
    "oldlibs": "transitional, dummy, safely removed, upgrade",
    "otherosfs": "disk, disc, emulator, filesystem, DOS, Windows, AVR, volume format, mingw",
    "perl": "perl, module, XS, CPAN, class, object",
    "php": "php, horde, symfony, pear, PHP framework",
    "python": "python3, python, module, py, django, bindings",
    "ruby": "ruby, gem, rails, rack, rspec, rake",
    "rust": "librust, rust, crate, cargo, debcargo, source code, feature",
    "science": (
        "DNA, genome, sequence, protein, alignment, biological, chemistry, astronomy, "
        "simulation, analysis, scientific, molecular, data"
    ),
    "shells": "shell, zsh, bash, ksh, csh, dash",
    "sound": "audio, sound, music, player, MIDI, JACK, MP3, LV2, mixer, synthesizer, speech",
    "tasks": "task, localised desktop environment, speaking people, installs",
    "tex": "TeX, LaTeX, texlive, typesetting, CTAN, bibliography, document macros",
    "text": (
        "dictionary, dict, words, ispell, aspell, spell checker, XML, PDF, text, "
        "markdown, document, converts"
    ),
    "utils": "tool, utility, command, line, input method, fcitx, files, archive, converts",
    "vcs": "git, svn, subversion, version control, repository, commit, mercurial, CVS, bazaar",
    "video": "video, movie, stream, DVD, MPEG, VLC, media player, webcam, capture",
    "web": "web, browser, CSS, site, weblog, wiki, uwsgi, cache, feed",
    "x11": "X11, window, manager, display, xserver, X session, dock, keyboard, desktop, applet",
    "xfce": "xfce4, xfce, thunar, panel plugin",
    "zope": "zope, plone",
}
