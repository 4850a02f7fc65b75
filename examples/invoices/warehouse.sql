create table invoices (invoice_id varchar primary key, supplier varchar, description varchar);
insert into invoices values
  ('R-2041', 'Cloudline GmbH', 'Hosting of the web shop, October, EUR 1,240.00'),
  ('R-2042', 'Blitzblank Service', 'Cleaning of the office in Leipzig, EUR 380.00'),
  ('R-2043', 'Expo Builders', 'Stand at the trade fair in Hannover, EUR 14,500.00'),
  ('R-2044', 'TalentFirst', 'Search for a head of sales, first third, EUR 9,000.00'),
  ('R-2045', 'Papeterie Klein', 'Paper and toner, EUR 96.40'),
  ('R-2046', 'Datawave Systems', 'Six laptops for new colleagues, EUR 7,734.00');
