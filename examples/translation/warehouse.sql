create table texts (text_id varchar primary key, english varchar);
insert into texts values
  ('welcome', 'Welcome back! You have three new messages.'),
  ('empty_cart', 'Your cart is empty. Have a look at what is new this week.'),
  ('late', 'Your parcel is late. We are sorry, and let you know as soon as it moves.'),
  ('password', 'The password must have twelve letters or more.');
