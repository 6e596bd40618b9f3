SET session_replication_role = replica;

INSERT INTO "auth"."users" ("instance_id", "id", "aud", "email", "encrypted_password", "email_confirmed_at", "raw_user_meta_data", "is_super_admin", "created_at", "updated_at", "banned_until", "deleted_at") VALUES
	('00000000-0000-0000-0000-000000000000', 'a1d4c5b0-1111-4222-8333-000000000021', 'authenticated', 'grace@insert.example', '$2a$05$6Q6SKNRG1O345IlqUmCifeAjrQK3WcIu38MwXZozfiZhhOhTVHBbe', '2024-05-01 12:00:00.123456+00', '{"first_name": "Grace", "last_name": "O''Hopper; (VALUES)"}', NULL, '2024-04-30 12:00:00+00', '2024-05-02 12:00:00+00', NULL, NULL),
	('00000000-0000-0000-0000-000000000000', 'a1d4c5b0-1111-4222-8333-000000000022', 'authenticated', 'alan@insert.example', '$2a$05$Wh3BVIsjpXDnMpTo7tTP5OHunMHSqtwuL35zwH.frO2dmOZUN4Q1G', '2024-05-01 12:00:00.123456+00', '{"note": "two
lines"}', NULL, '2024-04-30 12:00:00+00', '2024-05-02 12:00:00+00', NULL, NULL);

INSERT INTO "auth"."identities" ("id") VALUES
	('1');
