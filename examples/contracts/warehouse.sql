create table contracts (contract_id varchar primary key, signed date, body varchar);
insert into contracts values
  ('C-17', '2026-01-12', 'Lease of office rooms.
Landlord: Altmarkt Immobilien KG
Begins: 2026-02-01
Ends: 2031-01-31
Monthly rent: EUR 4,200
Notice months: 6
Renews: yes, by a year at a time'),
  ('C-18', '2026-03-03', 'Maintenance of two lifts.
Contractor: Aufzug Nord GmbH
Begins: 2026-04-01
Ends: 2028-03-31
Monthly fee: EUR 310
Notice months: 3
Renews: yes'),
  ('C-19', '2026-05-20', 'Licence of a font for print and web.
Licensor: Lettera Type Foundry
Begins: 2026-06-01
A single payment of EUR 1,800. No end was agreed.'),
  ('C-20', '2026-07-01', 'Cleaning of the warehouse.
Contractor: Blitzblank Service
Begins: 2026-07-15
Ends: 2027-07-14
Monthly fee: EUR 960
Notice months: 1
Renews: no');
