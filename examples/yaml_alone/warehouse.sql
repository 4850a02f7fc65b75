create table tickets (ticket_id integer primary key, subject varchar, body varchar);
insert into tickets values
  (101, 'Parcel has not arrived', 'Ordered on 2 November, tracking stands still since the 5th.'),
  (102, 'Wrong amount on my invoice', 'I was charged EUR 49.90 twice for order 88213.'),
  (103, 'Cannot log in', 'The reset mail never comes. I have looked in the spam folder, too.'),
  (104, 'Broken on arrival', 'The lamp came with a cracked shade. Photos are attached.'),
  (105, 'Invoice for our books', 'Please send the invoice of October with our VAT number.'),
  (106, 'Where is my order?', 'The courier says delivered, but nobody here has seen it.'),
  (107, 'Do you ship to Norway?', 'We would order twenty pieces for our office in Oslo.'),
  (108, 'test', '');
