create table calls (call_id integer primary key, called_on date, notes varchar);
insert into calls values
  (1, '2026-11-02', 'Asked for opening hours. Friendly.'),
  (2, '2026-11-02', 'Third call about the same refund. Shouted, wants the manager.'),
  (3, '2026-11-03', 'Changed the delivery address. Calm.'),
  (4, '2026-11-04', 'The heating does not start. Worried, has small children.'),
  (5, '2026-11-04', 'Wanted to cancel, was talked out of it.'),
  (6, '2026-11-05', 'Says we lie to him, and hung up.'),
  (7, '2026-11-05', 'Thanked us for the quick repair.');
