create table mails (mail_id varchar primary key, body varchar);
insert into mails values
  ('m-1', 'Please send 12 pieces of SKU-4410 to our shop in Lyon by 2026-12-01. Anna Berg, anna@berg.example'),
  ('m-2', 'We order 3 units of SKU-2208. Deliver on 2026-12-04. Regards, Tomas Lind, tomas@lind.example'),
  ('m-3', 'Is SKU-9001 still made? Mia Sand, mia@sand.example'),
  ('m-4', 'Quantity 40 of SKU-4410, due 2026-12-15. Contact: orders@hotel.example');
