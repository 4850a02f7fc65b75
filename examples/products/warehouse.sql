copy (select * from (values
  ('north-1', 'Kettle K3', 'Electric kettle of brushed steel, 1.7 litres, 2,200 watts. Switches itself off when the water boils or when it is empty. The lid opens by a button, the lime filter can be washed. Cable 75 cm.'),
  ('north-2', 'Headlamp Alpin 400', 'Headlamp with 400 lumens for climbing and running. Red light for the camp. The battery lasts 40 hours at the lowest level and is charged by USB-C. Weighs 78 g, rain does not harm it.'),
  ('north-3', 'Oak board', 'Cutting board of oak from the Spessart, oiled, 40 by 25 cm. Please do not put it into the dishwasher.')
) product(product_id, name, body)) to 'data/products_north.parquet' (format parquet);
copy (select * from (values
  ('south-1', 'Kettle K3', 'Electric kettle of brushed steel, 1.7 litres, 2,200 watts. Switches itself off when the water boils or when it is empty. The lid opens by a button, the lime filter can be washed. Cable 75 cm.'),
  ('south-2', 'Bicycle bell Ding', 'A bell of brass, turned and polished by hand. Fits handlebars of 22 to 26 mm. Its sound lasts for six seconds.')
) product(product_id, name, body)) to 'data/products_south.parquet' (format parquet);
