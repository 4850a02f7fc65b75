create table tickets (ticket_id integer primary key, subject varchar, body varchar, team_by_hand varchar);
insert into tickets values
  (1, 'Parcel has not arrived', 'Tracking of the parcel stands still since the 5th.', 'delivery'),
  (2, 'Order 88213', 'I was charged EUR 49.90 twice; please refund one charge.', 'billing'),
  (3, 'Cannot log in', 'The reset mail for my password never comes.', 'account'),
  (4, 'Where is it?', 'The courier says delivered, but no parcel is here.', 'delivery'),
  (5, 'Invoice for our books', 'Please send the invoice of October with our VAT number.', 'billing'),
  (6, 'A question', 'Can I change the address of my account, and the password?', 'account'),
  (7, 'Refund', 'The refund of the invoice is not on our bank account yet.', 'billing'),
  (8, 'Late again', 'The second parcel of the courier that is late this month.', 'delivery'),
  (9, 'Wrong password', 'It says that the password is wrong, and it is not.', 'account'),
  (10, 'October', 'Your invoice adds up the charges wrongly.', 'billing'),
  (11, 'Norway', 'Would a courier bring twenty pieces to our office in Oslo?', null),
  (12, 'Hello', 'Somebody should call me about the bill.', null);
