create table letters (letter_id varchar primary key, sender varchar);
insert into letters values
  ('L-1', 'Nordlicht GmbH'),
  ('L-2', 'Stadtwerke Passau'),
  ('L-3', 'Weber & Sons');
create table charts (chart_id integer primary key, file varchar);
insert into charts values (1, 'north.png'), (2, 'south.png'), (3, 'notes.png');
